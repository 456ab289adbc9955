"""The dashboard in a real browser: a person finds, understands and repairs sagas, on any screen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette

from polysaga import Databases, Refused, Retry, Saga, Sagas, SqlDatabase, StepContext
from polysaga.dashboard import dashboard
from polysaga.errors import NeedsAttention
from polysaga.testing import on_sqlite, opened
from tests.fixtures.dashboards import mounted, served
from tests.fixtures.programs import MigratedUrls, Program
from tests.fixtures.repairs import HeldRepairs
from tests.fixtures.waiting import until
from tests.integration.test_repairs import parked, put_aside, stuck_going_back, stuck_going_forward

expect.set_options(timeout=20_000)
WHY = "the shelf was counted, OPS-2291"
WIDTHS = [320, 390, 640, 760, 1000, 1280, 1600]
# Violations are reported to the page, and counted from its first moment on.
COUNT = """
window.violations = [];
addEventListener('securitypolicyviolation', (event) => window.violations.push(event.violatedDirective));
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysaga.dashboard.live.EVERY", 0.2)
    monkeypatch.setattr("polysaga.dashboard.live.LOAD", 0.05)
    monkeypatch.setattr("polysaga.dashboard.looking._SHARED", 0.1)


@dataclass
class Looking:
    """A browser on the dashboard of a program with two parked sagas."""

    browser: Browser
    program: Program
    url: str
    ids: list[UUID]
    complaints: list[str] = field(default_factory=list)

    async def page(self, **given: Any) -> Page:
        """Open a tab; what the browser complains of is kept."""
        context = await self.browser.new_context(**given)
        page = await context.new_page()
        await page.add_init_script(COUNT)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)
        page.on("request", self._check_address)
        return page

    def _hear(self, line: Any) -> None:
        if line.type == "error" and "the server responded with a status of 4" not in line.text:  # on purpose
            self.complaints.append(line.text)

    def _check_address(self, request: Any) -> None:
        if not request.url.startswith(self.url):
            self.complaints.append(f"asks {request.url}")


@asynccontextmanager
async def looking(chromium: str, program: Program) -> AsyncIterator[Looking]:
    async with program.open(), served(mounted(program, authorize=None)) as url, async_playwright() as driver:
        ids = [await parked(program) for _ in range(2)]
        browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            found = Looking(browser, program, f"{url}/dashboard", ids)
            yield found
            assert found.complaints == []
        finally:
            await browser.close()


async def violations(page: Page) -> list[str]:
    found: list[str] = await page.evaluate("window.violations")
    return found


@pytest.mark.parametrize(
    "screen",
    [
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
    ],
    ids=["desk", "dark phone"],
)
async def test_a_person_repairs_all_parked_sagas_and_watches(
    chromium: str, files: MigratedUrls, screen: dict[str, Any]
) -> None:
    async with looking(chromium, stuck_going_back(files)) as here:
        page = await here.page(**screen)
        await page.goto(f"{here.url}/")
        await expect(page.locator("h1")).to_have_text("2 sagas need a person.")
        await page.get_by_role("link", name="Look at 2").click()
        await expect(page.locator("table.sagas tbody tr")).to_have_count(2)
        watching = await here.page(**screen)  # another tab, which is never reloaded
        await watching.goto(page.url)
        await watching.evaluate("window.stayed = true")
        await expect(watching.locator("#live")).to_contain_text("Live")

        await page.locator("table.sagas .name").first.click()
        await expect(page.locator("h1")).to_contain_text("Nothing moves until a person decides.")
        await expect(page.locator("#s-story")).to_contain_text("ZeroDivisionError: cannot do it")
        await page.get_by_role("link", name="Act on all 2").click()
        del here.program.hooks["undo:reserve_stock"]  # the cause is gone
        await expect(page.locator(".bulk .if-none")).to_contain_text("All 2 that match")
        await page.get_by_role("button", name="Retry …").click()
        await expect(page.locator("h1")).to_have_text("Retry 2 sagas?")
        await page.get_by_label("How many, as a check").fill("2")
        await page.get_by_label("Why").fill(WHY)
        await page.get_by_role("button", name="Retry 2 sagas").click()
        await expect(page.locator("h1")).to_have_text("2 of 2 sagas retried.")

        await expect(watching.locator("table.sagas .chip.t-compensated")).to_have_count(2)
        assert await watching.evaluate("window.stayed") is True
        await page.get_by_role("link", name="Audit", exact=True).click()
        await expect(page.locator("table.audit")).to_contain_text(WHY)
        await expect(page.locator("table.audit")).to_contain_text("retry 2 sagas of place-order")
        assert await violations(page) == []
        assert await violations(watching) == []


async def test_everything_works_without_javascript(chromium: str, files: MigratedUrls) -> None:
    async with looking(chromium, stuck_going_back(files)) as here:
        page = await here.page(java_script_enabled=False)
        await page.goto(f"{here.url}/sagas?status=needs_attention")
        await expect(page.locator(".bulk .if-chosen")).to_be_hidden()
        await page.locator("table.sagas input[name=id]").first.check()
        await expect(page.locator(".bulk .if-none")).to_be_hidden()
        await expect(page.locator(".bulk .if-chosen")).to_be_visible()
        await page.get_by_role("button", name="Resolve …").click()
        await expect(page.locator("h1")).to_have_text("Resolve 1 saga as compensated?")
        await page.get_by_label("How many, as a check").fill("1")
        await page.get_by_label("Why").fill(WHY)
        await page.get_by_role("button", name="Resolve 1 saga").click()
        await expect(page.locator("h1")).to_contain_text("1")  # the page looks again by itself
        await expect(page.locator("h1")).to_have_text("1 of 1 saga resolved.")
        await page.goto(f"{here.url}/sagas?status=needs_attention")
        await page.locator("table.sagas .name").first.click()
        await page.get_by_label("Why, for the audit trail").first.fill(WHY)
        await page.get_by_role("button", name="Retry", exact=True).click()
        await expect(page.get_by_role("status").first).to_contain_text("Done: it is due at once")


async def test_what_a_person_types_and_opens_is_left_alone(chromium: str, files: MigratedUrls) -> None:
    async with looking(chromium, stuck_going_back(files)) as here:
        page = await here.page()
        await page.goto(f"{here.url}/sagas/{here.ids[0]}")
        await expect(page.locator("#live")).to_contain_text("Live")
        await page.locator("#step-open_order summary").click()
        await page.get_by_label("Why, for the audit trail").first.fill(WHY)
        await here.program.sagas.resolve(here.ids[0], "compensated", by="bob", why="faster")
        await expect(page.locator("#s-story")).to_contain_text("Resolved by bob")
        await expect(page.locator("#step-open_order")).to_have_attribute("open", "")
        await expect(page.get_by_label("Why, for the audit trail").first).to_have_value(WHY)
        await page.get_by_role("button", name="Retry", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text("It has moved on since you looked")


async def pages_of(here: Looking) -> list[str]:
    aside = "/sagas?status=completing"
    return ["/", "/sagas", aside, f"/sagas/{here.ids[0]}", "/databases", "/audit", "/nowhere", "/sagas?key=none"]


async def barriers(page: Page, what: str) -> list[str]:
    """Return what keeps people from using the page, as far as axe can tell."""
    found = await Axe().run(page)
    return [
        f"{what}: {one['id']}: {one['nodes'][0]['html'][:150]}"
        for one in found.response["violations"]
        if one["impact"] in {"serious", "critical"}
    ]


async def sideways(page: Page, what: str) -> list[str]:
    """Return at which widths of the screen the page is wider than that."""
    found = []
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        wide = await page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            found.append(f"{what} is {wide} wide at {width}")
    await page.set_viewport_size({"width": 1280, "height": 900})
    return found


async def test_a_page_says_in_large_that_the_service_does_not_answer(chromium: str, files: MigratedUrls) -> None:
    async with looking(chromium, stuck_going_back(files)) as there:
        page = await there.page()
        await page.goto(there.url)
        alarm, sign = page.locator("#silent"), page.locator("#live .word")
        await expect(sign).to_have_text("Live")
        await expect(alarm).to_be_hidden()

        await page.route("**/live/**", lambda route: route.abort())
        await page.reload()
        await expect(alarm).to_be_visible()
        await expect(alarm).to_contain_text("The service does not answer.")
        await expect(sign).to_have_text("Not live since")
        assert len(there.complaints) > 0, "the browser itself complains of the lost stream"
        there.complaints.clear()

        await page.unroute("**/live/**")
        await expect(sign).to_have_text("Live")
        await expect(alarm).to_be_hidden()
        there.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_keeps_people_out(chromium: str, files: MigratedUrls, scheme: Any) -> None:
    async with looking(chromium, stuck_going_back(files)) as here:
        page = await here.page(color_scheme=scheme)
        for path in await pages_of(here):
            await page.goto(f"{here.url}{path}")
            assert await barriers(page, path) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_on_the_way_of_a_repair_keeps_people_out_or_scrolls_sideways(
    chromium: str, files: MigratedUrls, monkeypatch: pytest.MonkeyPatch, scheme: Any
) -> None:
    held = HeldRepairs(monkeypatch)
    async with looking(chromium, stuck_going_back(files)) as here:
        page, found = await here.page(color_scheme=scheme), []

        async def look(what: str) -> None:
            found.extend([*await barriers(page, what), *await sideways(page, what)])

        for action in ("Resolve …", "Skip a step …", "Retry …"):
            await page.goto(f"{here.url}/sagas?status=needs_attention")
            await expect(page.locator(".bulk .if-none")).to_contain_text("All 2 that match")
            await page.get_by_role("button", name=action).click()
            await look(f"the question of {action}")
        await page.get_by_label("How many, as a check").fill("3")
        await page.get_by_label("Why").fill(WHY)
        await page.get_by_role("button", name="Retry 2 sagas").click()
        await expect(page.get_by_role("alert")).to_contain_text("You typed 3, and 2 match now.")
        await look("the question again")
        await page.get_by_label("How many, as a check").fill("2")
        await page.get_by_role("button", name="Retry 2 sagas").click()
        await expect(page.get_by_role("button", name="Stop here")).to_be_visible()
        await look("a repair under way")
        await page.get_by_role("button", name="Stop here").click()
        await expect(page.locator("h1")).to_contain_text("Stopped by")
        await look("a repair that is stopped")
        held.go_on.set()
        await expect(page.locator("#b-far")).to_contain_text("ended at")
        await look("a repair that has ended")
        assert await violations(page) == []
        assert found == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_of_a_viewer_or_without_a_journal_keeps_people_out_or_scrolls_sideways(
    chromium: str, files: MigratedUrls, monkeypatch: pytest.MonkeyPatch, scheme: Any
) -> None:
    async def silent(self: Any) -> None:
        raise OSError("connection refused")

    program = stuck_going_back(files)
    async with program.open(), served(mounted(program)) as address, async_playwright() as driver:
        saga_id, url = await parked(program), f"{address}/dashboard"
        browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            context = await browser.new_context(color_scheme=scheme, extra_http_headers={"x-person": "lena"})
            page, found = await context.new_page(), []
            for path in ("/", "/sagas?status=needs_attention", f"/sagas/{saga_id}"):
                await page.goto(f"{url}{path}")
                await expect(page.locator(".person")).to_contain_text("viewer")
                found += [*await barriers(page, path), *await sideways(page, path)]
            monkeypatch.setattr("polysaga.sagas.operations.inspector.Inspector.overview", silent)
            monkeypatch.setattr("polysaga.dashboard.looking._SHARED", 0.0)

            async def is_down() -> bool:  # a look that was under way may still be good for the first request
                answer = await page.goto(f"{url}/")
                return answer is not None and answer.status == 503

            await until(is_down, "the page says that the journal does not answer")
            await expect(page.locator("main")).to_contain_text("The journal does not answer")
            found += [*await barriers(page, "no journal"), *await sideways(page, "no journal")]
            monkeypatch.undo()
            await expect(page.locator("main")).not_to_contain_text(
                "The journal does not answer"
            )  # it comes back by itself
            stranger = await browser.new_page()
            await stranger.goto(f"{url}/")
            found += [*await barriers(stranger, "no person"), *await sideways(stranger, "no person")]
            assert found == []
        finally:
            await browser.close()


async def test_no_page_scrolls_sideways(chromium: str, files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with looking(chromium, program) as here:
        page = await here.page()
        for path in await pages_of(here):
            for width in WIDTHS:
                await page.set_viewport_size({"width": width, "height": 800})
                await page.goto(f"{here.url}{path}?live=off" if "?" not in path else f"{here.url}{path}&live=off")
                await page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
                wide = await page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{path} is {wide} wide at {width}"


async def test_a_saga_that_is_tried_again_shows_when_in_the_browser(chromium: str, files: MigratedUrls) -> None:
    program = stuck_going_forward(files)
    async with program.open(), served(mounted(program, authorize=None)) as url, async_playwright() as driver:
        saga_id = await put_aside(program)
        browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(f"{url}/dashboard/sagas/{saga_id}")
        await expect(page.locator("h1")).to_contain_text("It is tried again at")
        await browser.close()


LONG = {"orders": f"{'orders_' * 8}x", "stock": f"{'stock_' * 9}x"}
SIGNS = "مفتاح " * 20 + "🦊" * 100 + "x" * 200 + "数据库" * 60


def with_long_names(tmp_path: Path) -> Sagas:
    """Return a program of which every name is about as long as it may be, and an error that is longer."""
    orders, stock = (SqlDatabase(name) for name in LONG.values())
    saga = Saga("import-all-orders-of-the-customers-of-the-last-quarter-again", input=str)
    soon = Retry(within=0.05, first=0.01)

    async def take_the_pieces_that_were_ordered_from_the_shelf_in_the_north(
        db: AsyncSession, value: str, ctx: StepContext
    ) -> str:
        return value

    async def put_the_pieces_that_were_ordered_back_on_the_shelf_in_the_no(
        db: AsyncSession, value: str, done: str, ctx: StepContext
    ) -> None:
        raise LookupError(value)

    async def confirm_the_order_of_the_customer_for_the_pieces_in_the_nort(
        db: AsyncSession, value: str, ctx: StepContext
    ) -> None:
        raise Refused(value)

    step = saga.step(stock, undo_retry=soon)(take_the_pieces_that_were_ordered_from_the_shelf_in_the_north)
    step.compensation(put_the_pieces_that_were_ordered_back_on_the_shelf_in_the_no)
    saga.step(orders, kind="pivot")(confirm_the_order_of_the_customer_for_the_pieces_in_the_nort)
    return Sagas(Databases(orders, stock), saga, journal=orders)


async def test_no_page_with_long_names_and_texts_scrolls_sideways(chromium: str, tmp_path: Path) -> None:
    sagas, found = with_long_names(tmp_path), list[str]()
    (saga,) = sagas.declared
    app = Starlette()
    app.mount("/dashboard", dashboard(sagas, sagas.databases, title="a title"))
    async with opened(sagas, on_sqlite(sagas, tmp_path)), served(app) as url, async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(f"{url}/dashboard/")
        found += await sideways(page, "the empty overview")
        with pytest.raises(NeedsAttention):
            await sagas.run(saga, SIGNS, key="k" * 200)
        for path in ("/", "/sagas", "/databases", "/audit"):
            await page.goto(f"{url}/dashboard{path}")
            found += await sideways(page, path)
        await page.goto(f"{url}/dashboard/sagas?status=needs_attention")
        await page.locator("table.sagas .name").first.click()
        await page.evaluate("document.querySelectorAll('.step details').forEach((one) => (one.open = true))")
        for act in await page.locator(".act > summary").all():
            await act.click()
            found += await sideways(page, f"a saga, {await act.inner_text()}")
        await browser.close()
    assert found == []

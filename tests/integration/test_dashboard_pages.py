"""The pages that look: what they say, to whom, and that nothing hostile gets into them."""

import hashlib
import re
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from polysaga import Saga, SagaFilter, Sagas, Status
from polysaga.dashboard import dashboard
from polysaga.dashboard.headers import CSP
from polysaga.errors import ConfigurationError, DatabaseUnavailable, Refused
from polysaga.events import Events, SagaParked
from polysaga.sagas import Inspector
from polysaga.sagas.driving import execution
from polysaga.sagas.participants import Entry
from tests.fixtures.dashboards import Visit, by_header, mounted, opened, plain
from tests.fixtures.programs import (
    PLACE_ORDER,
    Gate,
    MigratedUrls,
    Order,
    Program,
    lose_processes,
    make_due,
    take_over,
)
from tests.fixtures.waiting import until
from tests.integration.test_inspector import was_due
from tests.integration.test_repairs import finished, parked, put_aside, stuck_going_back, stuck_going_forward

pytestmark = pytest.mark.usefixtures("looked_at_soon")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"
STATIC = Path(dashboard.__code__.co_filename).parent / "static"
# Of npm's htmx.org 4.0.1, dist/htmx.min.js.
HTMX = "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"


async def test_an_overview_with_nothing_to_do_is_calm(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    async with opened(program) as visit:
        await finished(program, (await program.sagas.start(program.saga, Order())).id)
        answer = await visit.get("/")
        assert answer.status_code == 200
        assert "Nothing needs you." in plain(answer)
        assert "No saga is parked." in plain(answer)


async def test_an_overview_before_the_first_saga_shows_what_is_declared(files: MigratedUrls) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        answer = await visit.get("/")
        assert "No saga has been started yet." in plain(answer)
        assert all(step in plain(answer) for step, *_ in PLACE_ORDER)


async def test_a_process_that_drives_no_saga_shows_and_repairs_them(files: MigratedUrls) -> None:
    async with stuck_going_back(files).open() as program:
        ids = [await parked(program) for _ in range(2)]
    apart = Program(files, PLACE_ORDER)
    async with apart.connected():
        visit = Visit(mounted(apart))
        for path in ["/", "/sagas", f"/sagas/{ids[0]}", "/databases", "/audit"]:
            assert (await visit.get(path)).status_code == 200, path
        assert "2 sagas need a person" in plain(await visit.get("/"))
        form = {"token": await visit.token(), "query": "status=needs_attention", "why": "seen to", "count": "2"}

        begun = await visit.post("/repairs/begin", {**form, "action": "retry"})

        assert begun.status_code == 303
        told = "How its sagas stand now by the journal 2 compensating"
        await until(lambda: _says(visit, begun.headers["location"], told), "both are ordered to go on")
        assert {(await apart.sagas.get(one)).owner for one in ids} == {None}
    async with Program(files, PLACE_ORDER).open() as again:
        for one in ids:
            assert (await finished(again, one)).status is Status.COMPENSATED


async def _says(visit: Visit, where: str, told: str) -> bool:
    return told in plain(await visit.http.get(where))


async def test_the_audit_trail_is_searched_by_id_and_by_key(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        one, other = await parked(program, key="monday"), await parked(program)
        for saga_id in (one, other):
            await program.sagas.resolve(saga_id, "compensated", by="ada", why=f"of {saga_id}")

        async def found(asked: str) -> list[bool]:
            page = plain(await visit.get("/audit", params={"saga": asked}))
            return [f"of {saga_id}" in page for saga_id in (one, other)]

        assert await found("monday") == await found(str(one)) == [True, False]
        assert await found(str(other)) == [False, True]
        assert await found("tuesday") == await found(str(uuid4())) == [False, False]
        nothing = plain(await visit.get("/audit", params={"saga": str(one)[:-1]}))
        assert "No entry matches." in nothing
        assert "A key or an id is found whole" in nothing


async def test_an_audit_trail_without_entries_says_so(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        page = plain(await visit.get("/audit"))
        assert "Everything that people did: nothing." in page
        assert "No person has acted on a saga yet." in page
        found = plain(await visit.get("/audit", params={"by": "ada"}))
        assert "Acts of ada: nothing." in found
        assert "No entry matches." in found


async def test_the_overview_groups_what_needs_a_person_by_cause(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        await parked(program)
        await parked(program)
        answer = await visit.get("/")
        assert "2 sagas need a person." in plain(answer)
        assert "place-order: reserve_stock in inventory cannot be undone" in plain(answer)
        link = re.search(r'href="/dashboard(/sagas\?[^"]+)">Look at 2<', answer.text)
        assert link is not None
        listed = await visit.get(link.group(1).replace("&amp;", "&"))
        assert "2 sagas of place-order" in plain(listed)


async def test_a_parked_saga_says_why_what_stands_and_what_comes_next(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        text = plain(await visit.get(f"/sagas/{saga_id}"))
        assert "Nothing moves until a person decides." in text
        assert "ZeroDivisionError" in text
        assert "cannot do it" in text
        assert "confirm_order refused: no lantern left" in text  # what it is undone for
        assert "open_order in orders" in text
        assert "reserve_stock in inventory are still done." in text
        assert "Nothing by itself. Remove the cause, then retry" in text
        assert "journal and ledgers agree" in text


async def test_a_saga_put_aside_says_when_it_is_tried_again(files: MigratedUrls) -> None:
    program = stuck_going_forward(files)
    async with opened(program) as visit:
        saga_id = await put_aside(program)
        text = plain(await visit.get(f"/sagas/{saga_id}"))
        assert "Decided, but record_event keeps failing in inventory. It is tried again at" in text
        assert "never undone" in text
        assert "Compensate Not possible now: it is decided" in text
        overview = plain(await visit.get("/"))
        assert "put aside" in overview
        assert "Waiting late:" in overview


async def test_a_list_says_which_step_is_retried(files: MigratedUrls) -> None:
    program = stuck_going_forward(files)
    async with opened(program) as visit:
        saga_id = await put_aside(program)
        listed = plain(await visit.get("/sagas?retrying=1"))
        assert "put aside, because record_event keeps failing" in listed
        assert "record_event in inventory" in listed
        (saga,) = (await visit.get("/api/sagas?retrying=1")).json()["sagas"]
        assert (saga["id"], saga["step"], saga["retried"]) == (str(saga_id), None, "record_event")
        text = plain(await visit.get(f"/sagas/{saga_id}"))
        assert "For as long as it takes" in text
        assert "Why ZeroDivisionError : cannot do it." in text, "the name of an error is said once"


async def test_a_saga_at_rest_says_so_and_offers_no_act(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    async with opened(program) as visit:
        done = (await program.sagas.start(program.saga, Order(), key="k-1")).id
        await finished(program, done)
        answer = await visit.get(f"/sagas/{done}")
        assert "Completed: every step has happened." in plain(answer)
        assert "The same key gives the same answer until it is removed on" in plain(answer)
        assert "<form" not in answer.text


async def test_a_saga_whose_record_is_lost_is_not_said_to_have_happened(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    async with opened(program) as visit:
        done = (await program.sagas.start(program.saga, Order())).id
        await finished(program, done)
        # As after a backup of the points was restored.
        await program.runner.engine.participants["points"].remove([done], timedelta(seconds=-60))
        text = plain(await visit.get(f"/sagas/{done}"))
        assert "Completed by the journal, but the databases do not fit it: 1 contradiction." in text
        assert "every step has happened" not in text


async def test_a_refused_saga_is_said_to_be_cleanly_undone(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)

    async def refuse(db: Any, ctx: Any) -> None:
        raise Refused("no lantern left")

    program.on("confirm_order", refuse)  # by then all three steps before it have happened
    async with opened(program) as visit:
        with pytest.raises(Refused):
            await program.sagas.run(program.saga, Order())
        (saga,) = (await program.sagas.find()).sagas
        await finished(program, saga.id)
        text = plain(await visit.get(f"/sagas/{saga.id}"))
        assert "Refused and cleanly undone: no lantern left" in text
        assert "the business saying no" in text
        # The first step, whose record is the journal's row, is undone like the others.
        assert "Nothing of it. open_order, reserve_stock and credit_points were undone." in text
        assert "Happened and is undone." in text
        assert "still stands" not in text
        assert "refused: no lantern left" in plain(await visit.get("/sagas"))


async def test_a_saga_that_its_processes_do_not_survive_warns_before_the_next_one(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "MOST_EXPIRIES", 0)
    first, second, third = (Program(files, PLACE_ORDER) for _ in range(3))
    gates = {program: Gate() for program in (first, second)}
    for program, gate in gates.items():
        program.on("reserve_stock", gate)
        program.on("credit_points", gate)
    async with first.open(lease=3600.0), second.open(lease=3600.0, drain=0.01):
        handle = await first.sagas.start(first.saga, Order())
        await gates[first].reached()
        await take_over(second, handle.id)  # it finds the record of the first step: that is progress
        await gates[second].reached()
    async with opened(third) as visit:
        await make_due(third, handle.id)
        await third.recorder.wait_for(SagaParked)
        text = plain(await visit.get(f"/sagas/{handle.id}"))
        assert "No process came past reserve_stock in inventory." in text
        assert "1 processes in a row ended, or hung, while they drove this saga; next comes reserve_stock" in text
        assert "A retry may end the next process too" in text
        assert text.index("Has everything undone that it did.") < text.index("Runs reserve_stock again.")
        assert "Compensate does not run reserve_stock ." in text
        assert "reserve_stock" in plain(await visit.get("/"))
        listed = plain(await visit.get("/sagas?status=needs_attention"))
        assert listed.index("Compensate …") < listed.index("Retry …")


async def test_a_saga_that_keeps_losing_its_process_is_told_before_it_is_parked(files: MigratedUrls) -> None:
    program, gate = Program(files, PLACE_ORDER), Gate()
    program.on("reserve_stock", gate)
    async with opened(program) as visit:
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        await lose_processes(program, handle.id, 3)

        overview = plain(await visit.get("/"))
        assert "1 saga keeps losing its process." in overview
        assert "Nothing needs you." not in overview
        assert "Three processes in a row, or more, ended or hung while they drove it: read their logs." in overview
        assert "Crashing late:" in overview
        assert "crashing=1" in (await visit.get("/")).text
        page = plain(await visit.get(f"/sagas/{handle.id}"))
        assert "3 processes in a row ended, or hung, while they drove it. Read in their logs why." in page
        assert "Compensate has it undone without running what comes next." in page
        assert "After eleven, the next process parks it." in page
        assert "keeps failing for" not in page
        listed = plain(await visit.get("/sagas?crashing=1"))
        assert "1 saga , whose processes end or hang" in listed
        assert "3 processes in a row ended, or hung, while they drove it" in listed
        gate.open()
        await finished(program, handle.id)
        assert str(handle.id) not in (await visit.get("/sagas?crashing=1")).text


async def test_a_victim_of_another_saga_says_that_nothing_of_it_is_left_to_do(files: MigratedUrls) -> None:
    program, gate = Program(files, PLACE_ORDER), Gate()
    program.on("record_event", gate)
    async with opened(program) as visit:
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        await lose_processes(program, handle.id, 3)
        engine = program.runner.engine
        entry = Entry(handle.id, "record_event", 1, engine.clock.now() + timedelta(minutes=1))

        async def nothing(session: object) -> str:
            return '{"step": "record_event", "attempt": 1}'

        await engine.participants["inventory"].act(entry, nothing)
        page = plain(await visit.get(f"/sagas/{handle.id}"))
        assert "Nothing of it is left to do, so another crashing saga is more likely the cause." in page
        assert "Nothing of it is left to do; then the saga is completed." not in page, "it cannot be retried now"
        gate.open()


async def test_sagas_of_a_version_that_no_process_knows_name_the_remedy(files: MigratedUrls) -> None:
    program, gate = Program(files, PLACE_ORDER), Gate()
    program.on("reserve_stock", gate)
    async with opened(program, who="ada") as visit:
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        await was_due(program, handle.id, timedelta(seconds=100))

        overview = plain(await visit.get("/"))
        assert "1 saga waits for a process that knows place-order version 1." in overview
        assert "No process that is up knows this version: deploy it again, beside the present one." in overview
        page = plain(await visit.get(f"/sagas/{handle.id}"))
        assert "Deploy version 1 of place-order again, beside the present one." in page
        assert "open_order in orders" in page
        assert "without a database" not in page
        waits = "it waits for the next process that knows version 1 to take it over."
        assert f"Retry now Not possible now: {waits}" in page
        form = {"token": await visit.token(), "query": "late=1"}
        retry = plain(await visit.post("/repairs", {**form, "action": "retry"}))
        assert "None of them can be changed in this way now" in retry
        assert "How many, as a check" not in retry
        undo = plain(await visit.post("/repairs", {**form, "action": "compensate"}))
        assert "It is of a version that this process does not know." in undo
        assert "How many, as a check" in undo
        gate.open()
        nothing = plain(await visit.get("/sagas?crashing=1"))
        assert "None is in this state now. Those that were have gone on since" in nothing


async def test_a_list_of_what_has_ended_offers_no_act(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    async with opened(program) as visit:
        await finished(program, (await program.sagas.start(program.saga, Order())).id)
        page = (await visit.get("/sagas?status=completed")).text
        assert 'name="action"' not in page
        assert 'name="id"' not in page


async def test_filters_are_in_the_address_and_pages_go_on_behind_the_last_row(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysaga.dashboard.pages._PAGE", 2)
    program = Program(files, PLACE_ORDER)
    async with opened(program) as visit:
        for number in range(3):
            await finished(program, (await program.sagas.start(program.saga, Order(), key=f"k-{number}")).id)
        first = await visit.get("/sagas?status=completed")
        assert ("k-2" in plain(first), "k-1" in plain(first), "k-0" in plain(first)) == (True, True, False)
        older = re.search(r'href="/dashboard(/sagas\?[^"]+after=[^"]+)">Older<', first.text)
        assert older is not None
        second = await visit.get(older.group(1).replace("&amp;", "&"))
        assert ("k-2" in plain(second), "k-0" in plain(second)) == (False, True)
        assert "No saga matches." in plain(await visit.get("/sagas?status=running"))
        assert "k-1" in plain(await visit.get("/sagas?key=k-1"))


async def test_a_saga_is_found_by_its_whole_id(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    async with opened(program) as visit:
        done = (await program.sagas.start(program.saga, Order())).id
        await finished(program, done)
        assert f'id="saga-{done}"' in (await visit.get(f"/sagas?key={done}")).text


@pytest.mark.parametrize(
    "query",
    ["status=nonsense", "since=yesterday", "until=2026-99-99", "after=zzz", f"after={HOSTILE}", "known=2", "=&&==",
     f"name={HOSTILE}", f"key={HOSTILE}", f"{HOSTILE}=1", "error=%00", "error=%ff", "step=" + "x" * 5000,
     "shown=1,2,3", f"after=0001-01-01T00:00:00%2B23:00~{UUID(int=1)}", "&".join("a=1" for _ in range(201))],
)  # fmt: skip
async def test_an_address_that_makes_no_sense_still_shows_a_page(files: MigratedUrls, query: str) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        for page in ("/sagas", "/audit"):
            answer = await visit.get(f"{page}?{query}")
            assert answer.status_code == 200
            assert "<script>alert" not in answer.text


async def test_a_list_says_what_it_leaves_out_and_does_not_act_on_all(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        await parked(program)
        page = plain(await visit.get("/sagas?status=needs_attention&since=garbage"))
        assert "'since' is no time like 2026-11-23T14:32; it was left out." in page
        assert "that match or choose some" not in page
        assert "All 1 that match or choose some" in plain(await visit.get("/sagas?status=needs_attention"))
        told = "'since' is 24h, 7d or 30d; it was left out."
        assert told in plain(await visit.get("/audit?since=garbage"))
        table = await visit.get("/audit?since=garbage&format=csv")
        assert (table.status_code, told in plain(table)) == (422, True)


async def test_a_value_that_sagas_refuse_is_refused_with_a_page(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysaga.dashboard.pages._PAGE", 2000)
    async with opened(Program(files, PLACE_ORDER)) as visit:
        answer = await visit.get("/sagas")
        assert (answer.status_code, "a page has 1 to 1000 sagas, not 2000" in plain(answer)) == (422, True)


async def test_the_link_of_a_long_cause_leads_to_its_sagas_only(files: MigratedUrls) -> None:
    program = stuck_going_back(files)

    async def fail(db: Any, ctx: Any) -> None:
        raise ZeroDivisionError("the people of the warehouse asked us to put nothing back " * 6)

    async with opened(program) as visit:
        await parked(program)
        program.on("undo:reserve_stock", fail)
        long = await parked(program)
        text = (await visit.get("/")).text
        links = re.findall(r'class="btn go[^"]*" href="/dashboard/sagas\?([^"]+)"', text)
        queries = [unescape(link) for link in links]
        listed = [(await visit.get(f"/sagas?{query}")).text for query in queries]
        assert [re.findall(r'id="saga-([^"]+)"', page) for page in listed].count([str(long)]) == 1
        in_json = [(await visit.get(f"/api/sagas?{query}")).json()["sagas"] for query in queries]
        assert [[saga["id"] for saga in sagas] for sagas in in_json].count([str(long)]) == 1


async def test_no_hostile_text_reaches_a_page_unescaped(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    program.steps["reserve_stock"].undo_retry = program.steps["reserve_stock"].undo_retry.__class__(
        within=0.05, first=0.01
    )

    async def hostile(db: Any, ctx: Any) -> None:
        raise Refused(HOSTILE)

    async def stumble(db: Any, ctx: Any) -> None:
        raise ZeroDivisionError(HOSTILE)

    program.on("confirm_order", hostile)
    program.on("undo:reserve_stock", stumble)
    events = Events()
    async with opened(program, events=events, title=HOSTILE) as visit:
        saga_id = await parked(program, key=HOSTILE)
        events(SagaParked(saga_id, "place-order", HOSTILE))
        await program.sagas.compensate(saga_id, by=HOSTILE, why=HOSTILE)
        await program.recorder.wait_for(SagaParked, lambda _: len(program.recorder.of(SagaParked)) > 1)
        headers = {"referer": HOSTILE, "user-agent": HOSTILE, "x-forwarded-prefix": HOSTILE, "accept": HOSTILE}
        pages = ["/", "/sagas", f"/sagas/{saga_id}", "/databases", "/audit", f"/{HOSTILE}", f"/sagas/{HOSTILE}"]
        for path in pages:
            answer = await visit.get(path, headers=headers, params={"done": HOSTILE})
            assert "<script>alert" not in answer.text, path
            assert "<img src=x" not in answer.text, path
            assert "onerror=alert(2)&gt;" in answer.text or "alert" not in answer.text, path
            assert "49" not in re.findall(r"img.{0,60}", answer.text), path


async def test_every_answer_carries_the_strict_policy(files: MigratedUrls) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        static = re.findall(r"/dashboard(/static/[^\"]+)", (await visit.get("/sagas")).text)
        assert len(static) > 3
        for path in [
            "/",
            "/sagas",
            f"/sagas/{uuid4()}",
            "/nowhere",
            "/static/x/y",
            "/static/%2e%2e/passwd",
            *static,
        ]:
            answer = await visit.get(path)
            assert answer.headers["content-security-policy"] == CSP, path
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert answer.headers["referrer-policy"] == "same-origin", path
            kept = "immutable" in answer.headers["cache-control"]
            assert kept == (path in static), path
            assert kept or answer.headers["cache-control"] == "no-store"


async def test_pages_have_no_inline_script_style_or_handler(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        for path in ["/", "/sagas", f"/sagas/{saga_id}", "/databases", "/audit"]:
            text = (await visit.get(path)).text
            assert re.findall(r"<script(?![^>]* src=)", text) == [], path
            assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", text) == [], path
            assert re.findall(r'(?:src|href)="(?:https?:)?//', text) == [], path
            ids = re.findall(r'\sid="([^"]+)"', text)
            assert len(ids) == len(set(ids)), path
            assert len(re.findall(r"<h1[ >]", text)) == 1, path


def test_the_vendored_htmx_is_the_released_one_with_its_licence() -> None:
    assert hashlib.sha256((STATIC / "htmx-4.0.1.min.js").read_bytes()).hexdigest() == HTMX
    assert "Zero-Clause BSD" in (STATIC / "htmx-LICENSE.txt").read_text()


@pytest.mark.parametrize("path", ["/static/0/style.css", "/static/%2e%2e/site.py", "/static/x/..%2fsite.py"])
async def test_only_the_listed_files_are_served(files: MigratedUrls, path: str) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        assert (await visit.get(path)).status_code == 404


async def test_links_stay_below_any_prefix(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open():
        saga_id = await parked(program)
        visit = Visit(mounted(program, "/intern/ops"), prefix="/intern/ops")
        for path in ["/", "/sagas", f"/sagas/{saga_id}", "/databases", "/audit"]:
            links = re.findall(r'(?:href|src|action|data-live)="(/[^"]*)"', (await visit.get(path)).text)
            assert links
            assert [link for link in links if not link.startswith("/intern/ops/")] == [], path


async def test_a_prefix_that_a_proxy_removes_is_in_the_links(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    async with program.open():
        app = mounted(program)

        async def below(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "root_path": "/shop", "path": "/shop" + scope["path"]}, receive, send)

        text = (await Visit(below).get("/sagas")).text
        assert 'href="/shop/dashboard/audit"' in text


async def test_two_dashboards_in_one_process_show_their_own_sagas(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    other: Saga[Order, None] = Saga("ship-order", input=Order)

    @other.step(program.handles["orders"])
    async def ship(db: Any, order: Order, ctx: Any) -> None: ...

    @ship.compensation
    async def unship(db: Any, order: Order, done: None, ctx: Any) -> None: ...

    second = Sagas(program.databases, other, journal=program.handles["orders"])
    async with program.open():
        app = mounted(program)
        app.mount("/second", dashboard(second, program.databases, authorize=by_header, title="shipping"))
        assert "place-order" in plain(await Visit(app).get("/"))
        answer = await Visit(app, prefix="/second").get("/")
        assert "shipping" in answer.text
        assert "ship-order" in answer.text


async def test_without_authorize_only_this_machine_is_served(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    async with program.open():
        app = mounted(program, authorize=None)
        assert (await Visit(app, who=None).get("/")).status_code == 200
        for visit, headers in [
            (Visit(app, who=None, host="shop.example"), {}),
            (Visit(app, who=None), {"x-forwarded-for": "10.0.0.1"}),
        ]:
            answer = await visit.get("/", headers=headers)
            assert answer.status_code == 403
            assert "open to its own machine only" in plain(answer)


async def test_a_stranger_sees_nothing(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program, who=None) as visit:
        saga_id = await parked(program)
        for path in ["/", "/sagas", f"/sagas/{saga_id}", "/databases", "/audit"]:
            answer = await visit.get(path)
            assert answer.status_code == 401, path
            assert "place-order" not in answer.text, path


async def test_a_viewer_sees_no_form_to_act(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program, who="lena") as visit:
        saga_id = await parked(program)
        page = await visit.get(f"/sagas/{saga_id}")
        assert "You may look, not act" in plain(page)
        assert 'method="post" action="/dashboard/sagas' not in page.text
        assert 'type="checkbox" name="id"' not in (await visit.get("/sagas")).text


async def test_an_unknown_saga_is_said_to_be_unknown(files: MigratedUrls) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        answer = await visit.get(f"/sagas/{uuid4()}")
        assert answer.status_code == 404
        assert "There is no saga with this id." in plain(answer)


async def test_a_journal_that_does_not_answer_is_told_from_memory(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        await parked(program)
        await visit.get("/")

        async def silent(self: Any) -> None:
            raise OSError("connection refused")

        with monkeypatch.context() as patch:
            patch.setattr("polysaga.sagas.operations.inspector.Inspector.overview", silent)
            patch.setattr("polysaga.dashboard.looking._SHARED", 0.0)
            for path in ["/", "/sagas"]:
                answer = await visit.get(path)
                assert answer.status_code == 503
                assert "The journal does not answer" in plain(answer)
                assert "1 needs attention" in plain(answer)
                assert answer.headers["retry-after"] == "5"
        assert (await visit.get("/")).status_code == 200  # it comes back by itself


async def test_masked_values_are_on_no_page(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    secret = "lantern-of-mrs-whitfield"

    async def hostile(db: Any, ctx: Any) -> None:
        raise Refused(f"no {secret} left", facts={"item": secret})

    program.on("confirm_order", hostile)
    async with opened(program, mask=("item",)) as visit:
        with pytest.raises(Refused):
            await program.sagas.run(program.saga, Order(item=secret), key=f"key of {secret}")
        (saga,) = (await program.sagas.find()).sagas
        await finished(program, saga.id)
        for path in [f"/sagas/{saga.id}", f"/sagas/{saga.id}?whole=1"]:
            assert secret not in (await visit.get(path)).text
        assert f"no {secret} left" not in (await visit.get("/sagas")).text


async def test_masked_values_stay_hidden_after_a_repair(files: MigratedUrls) -> None:
    program, secret = stuck_going_back(files), "lantern-of-mrs-whitfield"

    async def refuse(db: Any, ctx: Any) -> None:
        raise Refused(f"no {secret} left", item=secret)

    program.on("undo:reserve_stock", refuse)
    async with opened(program, mask=("item",)) as visit:
        saga_id = await parked(program)
        await program.sagas.resolve(saga_id, "compensated", by="ada", why="seen to")
        page = await visit.get(f"/sagas/{saga_id}")
        assert "Was parked" in plain(page)
        assert "no masked left" in plain(page)
        assert secret not in page.text


@pytest.mark.parametrize(
    ("given", "told"), [({"mask": "user_id"}, "takes names"), ({"trace": "https://x"}, "needs {trace_id}")]
)
def test_a_mistaken_argument_is_told_with_its_remedy(files: MigratedUrls, given: Any, told: str) -> None:
    program = Program(files, PLACE_ORDER)
    with pytest.raises(ConfigurationError, match=told):
        dashboard(program.sagas, program.databases, **given)


async def test_what_has_ended_is_not_counted(files: MigratedUrls, monkeypatch: pytest.MonkeyPatch) -> None:
    program, counted = stuck_going_back(files), list[Any]()
    whole = Inspector.count

    async def count(self: Inspector, wanted: SagaFilter) -> Any:
        counted.append(wanted.statuses)
        return await whole(self, wanted)

    monkeypatch.setattr(Inspector, "count", count)
    async with opened(program) as visit:
        await parked(program)
        for query in ["", "?status=completed", "?status=completed&name=place-order", "?key=k"]:
            await visit.get(f"/sagas{query}")
        assert counted == []
        text = plain(await visit.get("/sagas?name=place-order"))
        assert "Sagas of place-order, the newest first." in text
        assert "All 1 parked that match" in text
        assert "1 saga , with the status needs attention" in plain(
            await visit.get("/sagas?status=needs_attention")
        )
        assert counted == [(Status.NEEDS_ATTENTION,)], "of statuses alone the overview has the number"


async def test_a_database_that_does_not_answer_is_said_to_be_silent(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(files, PLACE_ORDER)

    async def gone() -> None:
        raise DatabaseUnavailable("points", "points", "connection refused")

    async with opened(program) as visit:
        await finished(program, (await program.sagas.start(program.saga, Order())).id)
        assert "All databases answer." in plain(await visit.get("/databases"))
        monkeypatch.setattr("polysaga.dashboard.looking._ASKED", 0.0)
        monkeypatch.setattr(program.handles["points"].primary, "ping", gone)
        databases = plain(await visit.get("/databases"))
        assert "points does not answer." in databases
        assert "no answer: connection refused" in databases
        answer = await visit.get("/")
        assert "<h1>points does not answer.</h1>" in answer.text
        overview = plain(answer)
        assert overview.count("points does not answer.") == 1
        assert "All databases answer." not in overview
        assert "Nothing needs you." not in overview


async def test_a_traced_saga_has_a_link_to_its_trace_and_another_has_none(files: MigratedUrls) -> None:
    program, trace_id = Program(files, PLACE_ORDER), "0af7651916cd43dd8448eb211c80319c"
    async with opened(program, trace="https://traces.example/{trace_id}") as visit:
        saga = await finished(program, (await program.sagas.start(program.saga, Order())).id)
        assert "traces.example" not in (await visit.get(f"/sagas/{saga.id}")).text
        node = program.runner.engine.journal.node
        async with node.writer.begin() as connection:
            await connection.execute(
                text(f"UPDATE polysaga_journal SET trace = '00-{trace_id}-b7ad6b7169203331-01'")
            )

        page = (await visit.get(f"/sagas/{saga.id}")).text

        assert f'href="https://traces.example/{trace_id}"' in page

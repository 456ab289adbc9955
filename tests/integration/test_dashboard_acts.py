"""Forms that act: what they change, under whose name, and everything that they are refused for."""

import re
from collections.abc import Mapping
from html import unescape
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from polysaga import Status
from polysaga.dashboard import Person
from polysaga.sagas import SagaFilter
from tests.fixtures.dashboards import ADA, LENA, Visit, hidden, mounted, opened, plain
from tests.fixtures.programs import PLACE_ORDER, Gate, MigratedUrls, Order, Program
from tests.fixtures.repairs import HeldRepairs
from tests.fixtures.waiting import until
from tests.integration.test_repairs import (
    finished,
    parked,
    put_aside,
    stuck_going_back,
    stuck_going_forward,
    stumble,
)

pytestmark = pytest.mark.usefixtures("looked_at_soon")
FORM = {"why": "the shelf was counted"}
NOT_OURS, FOREIGN = "not one that the dashboard gave you", "Pages of other sites may not act here."


async def form_for(visit: Visit, saga_id: UUID) -> dict[str, Any]:
    """Return what the forms of a saga's page carry."""
    page = await visit.get(f"/sagas/{saga_id}")
    return {**FORM, "token": hidden(page, "token"), "seen": hidden(page, "seen")}


async def untouched(program: Program, saga_id: UUID) -> bool:
    state = await program.sagas.get(saga_id)
    return state.status is Status.NEEDS_ATTENTION and state.audit == ()


async def test_a_retry_sends_back_to_the_saga_and_is_audited(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = await form_for(visit, saga_id)
        del program.hooks["undo:reserve_stock"]
        answer = await visit.post(f"/sagas/{saga_id}/retry", form)
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/dashboard/sagas/{saga_id}?done=retry"
        page = plain(await visit.http.get(answer.headers["location"]))
        assert "Done: it is due at once" in page
        state = await finished(program, saga_id)
        assert state.status is Status.COMPENSATED
        assert [(line.by, line.action, line.why) for line in state.audit] == [("ada", "retry", FORM["why"])]
        assert "ada retried it: “the shelf was counted”" in plain(await visit.get(f"/sagas/{saga_id}"))
        assert "the shelf was counted" in plain(await visit.get("/audit"))


@pytest.mark.parametrize(
    ("action", "more", "after"),
    [
        ("skip", {"step": "reserve_stock"}, Status.COMPENSATING),
        ("resolve", {"outcome": "compensated"}, Status.COMPENSATED),
    ],
)
async def test_the_other_acts_lead_where_the_page_says(
    files: MigratedUrls, action: str, more: Mapping[str, str], after: Status
) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = {**await form_for(visit, saga_id), **more}
        assert (await visit.post(f"/sagas/{saga_id}/{action}", form)).status_code == 303
        (line,) = (await program.sagas.get(saga_id)).audit
        assert (line.action, line.details["after"]["status"]) == (action, after.value)
        assert action in plain(await visit.get("/audit"))


async def test_a_running_saga_can_be_undone(files: MigratedUrls) -> None:
    program, gate = Program(files, PLACE_ORDER), Gate()
    program.on("reserve_stock", gate)
    async with opened(program) as visit:
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        page = await visit.get(f"/sagas/{handle.id}")
        assert "Under way and not decided" in plain(page)
        form = await form_for(visit, handle.id)
        assert (await visit.post(f"/sagas/{handle.id}/compensate", form)).status_code == 303
        gate.open()
        assert (await finished(program, handle.id)).status is Status.COMPENSATED


async def test_a_step_going_forward_is_skipped_with_its_result(files: MigratedUrls) -> None:
    program = stuck_going_forward(files)
    async with opened(program) as visit:
        saga_id = await put_aside(program)
        form = {**await form_for(visit, saga_id), "step": "record_event"}
        refused = await visit.post(f"/sagas/{saga_id}/skip", {**form, "result": "{not json"})
        assert refused.status_code == 422
        assert "the result is not JSON" in plain(refused)
        assert FORM["why"] in refused.text  # what was typed is still there
        wrong = await visit.post(f"/sagas/{saga_id}/skip", {**form, "result": "12"})
        assert wrong.status_code == 422
        good = {**form, "result": '{"step": "record_event", "attempt": 1}'}
        assert (await visit.post(f"/sagas/{saga_id}/skip", good)).status_code == 303


async def refused(answer: httpx2.Response, status: int, sentence: str) -> None:
    assert answer.status_code == status
    assert sentence in plain(answer)
    assert answer.headers["cache-control"] == "no-store"


async def test_a_viewer_is_denied_and_nothing_is_changed(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open():
        app = mounted(program)
        saga_id = await parked(program)
        form = await form_for(Visit(app), saga_id)
        lena = Visit(app, who="lena")
        await lena.get("/")
        answer = await lena.post(f"/sagas/{saga_id}/retry", form)
        await refused(answer, 403, "lena may look, not act.")
        assert f"Saga {saga_id}" in plain(answer)
        assert "Send the address of the page to an operator" in plain(answer)
        await refused(
            await lena.post("/repairs", {**form, "action": "retry", "id": str(saga_id)}), 403, "may look"
        )
        assert await untouched(program, saga_id)


async def test_a_stranger_and_a_person_whose_role_was_taken_cannot_act(files: MigratedUrls) -> None:
    program, people = stuck_going_back(files), ["ada"]

    async def changing(request: Any) -> Person | None:
        return {"ada": ADA, "lena": LENA, "": None}[people[-1]]

    async with opened(program, authorize=changing) as visit:
        saga_id = await parked(program)
        form = await form_for(visit, saga_id)
        people.append("")
        await refused(await visit.post(f"/sagas/{saga_id}/retry", form), 401, "does not know who you are")
        people.append("lena")
        await refused(await visit.post(f"/sagas/{saga_id}/retry", form), 403, "may look, not act")
        assert await untouched(program, saga_id)


@pytest.mark.parametrize("forged", ["", "0" * 64, "not a token", "<script>", "ä"])
async def test_a_missing_or_forged_token_is_refused(files: MigratedUrls, forged: str) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = {**await form_for(visit, saga_id), "token": forged}
        await refused(await visit.post(f"/sagas/{saga_id}/retry", form), 403, NOT_OURS)
        del form["token"]
        await refused(await visit.post(f"/sagas/{saga_id}/retry", form), 403, NOT_OURS)
        assert await untouched(program, saga_id)


async def test_the_token_of_another_browser_or_person_is_refused(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open():
        app = mounted(program)
        saga_id = await parked(program)
        form = await form_for(Visit(app), saga_id)
        other = Visit(app)
        await other.get("/")
        await refused(await other.post(f"/sagas/{saga_id}/retry", form), 403, NOT_OURS)
        without = Visit(app)  # no cookie at all
        await refused(await without.post(f"/sagas/{saga_id}/retry", form), 403, NOT_OURS)
        assert await untouched(program, saga_id)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "nonsense"},
        {"sec-fetch-site": "", "origin": "https://evil.example"},
    ],
)
async def test_a_form_of_another_site_is_refused(files: MigratedUrls, headers: dict[str, str]) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = await form_for(visit, saga_id)
        await refused(
            await visit.post(f"/sagas/{saga_id}/retry", form, headers=headers),
            403,
            FOREIGN,
        )
        assert await untouched(program, saga_id)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://localhost:81",
        "http://[",
        "localhost",
    ],
)
async def test_a_foreign_origin_is_refused_where_browsers_send_nothing_else(
    files: MigratedUrls, origin: str
) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = await form_for(visit, saga_id)
        path = f"/dashboard/sagas/{saga_id}/retry"
        answer = await visit.http.post(path, data=form, headers={"origin": origin, "referer": f"{origin}/"})
        await refused(answer, 403, FOREIGN)
        assert await untouched(program, saga_id)
        assert (await visit.http.post(path, data=form, headers={"origin": "http://localhost"})).status_code == 303


async def test_acts_are_never_carried_out_by_get(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = await form_for(visit, saga_id)
        for action in ["retry", "skip", "compensate", "resolve"]:
            answer = await visit.get(f"/sagas/{saga_id}/{action}", params=form)
            await refused(answer, 405, "This address takes forms only.")
        for path in ["/repairs", "/repairs/begin"]:
            assert (await visit.get(path, params=form)).status_code == 405
        assert await untouched(program, saga_id)


@pytest.mark.parametrize("path", ["/sagas/..%2f..%2fetc/retry", "/sagas/%2e%2e/retry", "/sagas/1/retry"])
async def test_a_path_that_is_no_saga_leads_nowhere(files: MigratedUrls, path: str) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        assert (await visit.post(path, FORM)).status_code in {404, 405}


async def test_an_unknown_action_or_saga_is_said_to_be_unknown(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = await form_for(visit, saga_id)
        assert (await visit.post(f"/sagas/{saga_id}/delete", form)).status_code == 404
        assert (await visit.post(f"/sagas/{uuid4()}/retry", form)).status_code == 404


async def test_an_act_on_a_saga_that_has_moved_on_changes_nothing(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = await form_for(visit, saga_id)
        await program.sagas.resolve(saga_id, "compensated", by="bob", why="faster")
        answer = await visit.post(f"/sagas/{saga_id}/retry", form)
        await refused(answer, 409, "It has moved on since you looked, so nothing was changed.")
        assert [line.by for line in (await program.sagas.get(saga_id)).audit] == ["bob"]


async def test_an_act_that_the_status_forbids_says_why(files: MigratedUrls) -> None:
    program = stuck_going_forward(files)
    async with opened(program) as visit:
        saga_id = await put_aside(program)
        form = await form_for(visit, saga_id)
        answer = await visit.post(f"/sagas/{saga_id}/compensate", form)
        await refused(answer, 409, "Nothing was changed:")
        assert (await program.sagas.get(saga_id)).audit == ()


@pytest.mark.parametrize("why", ["", "   ", "x" * 2001])
async def test_an_act_without_a_fitting_reason_changes_nothing(files: MigratedUrls, why: str) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = {**await form_for(visit, saga_id), "why": why}
        assert (await visit.post(f"/sagas/{saga_id}/retry", form)).status_code == 422
        assert await untouched(program, saga_id)


async def test_a_body_that_is_no_form_or_too_large_is_refused(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        path = f"/dashboard/sagas/{saga_id}/retry"
        for content, kind, status in [
            (b"{}", "application/json", 415),
            (b"why=" + b"x" * 300_000, "application/x-www-form-urlencoded", 413),
            (b"\xff\xfe", "application/x-www-form-urlencoded", 400),
            (b"&".join([b"a=b"] * 5000), "application/x-www-form-urlencoded", 400),
        ]:
            answer = await visit.http.post(path, content=content, headers={"content-type": kind})
            assert answer.status_code == status
        assert await untouched(program, saga_id)


async def chosen_or_matching(visit: Visit, ids: list[UUID], *, matching: bool) -> dict[str, Any]:
    page = await visit.get("/sagas?status=needs_attention")
    which = {"which": "matching"} if matching else {"which": "chosen", "id": [str(one) for one in ids]}
    return {"token": hidden(page, "token"), "query": hidden(page, "query"), **which}


@pytest.mark.parametrize("matching", [True, False])
async def test_many_sagas_are_retried_after_their_number_was_typed(files: MigratedUrls, *, matching: bool) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        ids = [await parked(program) for _ in range(3)]
        form = {**await chosen_or_matching(visit, ids, matching=matching), "action": "retry"}
        question = await visit.post("/repairs", form)
        assert question.status_code == 200
        assert "Retry 3 sagas?" in plain(question)
        assert "3 go from needs attention to compensating" in plain(question)
        assert "Type 3" in plain(question)
        assert all([await untouched(program, one) for one in ids])
        del program.hooks["undo:reserve_stock"]

        begun = await visit.post("/repairs/begin", {**form, **FORM, "count": "3"})

        assert begun.status_code == 303
        where = begun.headers["location"]
        assert re.fullmatch(r"/dashboard/repairs/[0-9a-f-]{36}", where)
        for one in ids:
            await finished(program, one)
        await until(lambda: _over(visit, where), "the batch ends")
        page = plain(await visit.http.get(where))
        assert "3 of 3 sagas retried." in page
        assert "How its sagas stand now by the journal 3 compensated" in page
        program.on("undo:reserve_stock", stumble)
        again = [await parked(program) for _ in range(2)]
        batch = program.sagas.begin_batch("retry", again, by="ada", why="gone?")
        await until(lambda: _stands(visit, batch, "2 needs attention"), "both are parked again")
        page = await visit.get(f"/repairs/{batch}")
        assert "How its sagas stand now by the journal 2 needs attention" in plain(page)
        assert all(f"/sagas/{one}" in page.text for one in again)
        audit = plain(await visit.get("/audit"))
        assert "retry 3 sagas of place-order" in audit


async def _stands(visit: Visit, batch: UUID, how: str) -> bool:
    page = plain(await visit.get(f"/repairs/{batch}"))
    return "2 of 2 sagas retried." in page and f"How its sagas stand now by the journal {how}" in page


async def _over(visit: Visit, where: str) -> bool:
    return "ended at" in plain(await visit.http.get(where))


@pytest.mark.parametrize("count", ["1", "", "three", "2 0", "<script>alert(1)</script>"])
async def test_a_number_that_is_not_right_any_more_changes_nothing(files: MigratedUrls, count: str) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        ids = [await parked(program) for _ in range(2)]
        form = {**await chosen_or_matching(visit, ids, matching=True), "action": "retry", **FORM}
        answer = await visit.post("/repairs/begin", {**form, "count": count})
        await refused(answer, 409, "2 match now. Nothing was changed.")
        assert "<script>alert" not in answer.text
        assert FORM["why"] in answer.text
        assert all([await untouched(program, one) for one in ids])


@pytest.mark.parametrize(
    "more",
    ["error=" + "x" * 301, "since=garbage", "stattus=running", f"after=0001-01-01T00:00:00%2B23:00~{UUID(int=1)}",
     "&".join("a=1" for _ in range(201))],
)  # fmt: skip
async def test_a_search_of_which_a_part_cannot_be_used_changes_nothing(files: MigratedUrls, more: str) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        page = await visit.get(f"/sagas?status=needs_attention&{more}")
        form = {name: hidden(page, name) for name in ("token", "query")} | {"action": "retry"}
        for path in ("/repairs", "/repairs/begin"):
            answer = await visit.post(path, {**form, **FORM, "count": "1"})
            await refused(answer, 422, "Nothing was changed: not all of the search can be used.")
            assert "left out" in plain(answer) or "not one of this list" in plain(answer)
        assert await untouched(program, saga_id)
        assert "Retry 1 saga?" in plain(await visit.post("/repairs", {**form, "id": str(saga_id)}))


async def test_all_that_match_needs_a_filter(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        await parked(program)
        form = {"token": await visit.token(), "query": "", "which": "matching", "action": "retry"}
        assert (await visit.post("/repairs", form)).status_code == 422
        assert (await visit.post("/repairs/begin", {**form, "count": "1", **FORM})).status_code == 422
        nothing = {**form, "which": "chosen"}
        await refused(await visit.post("/repairs", nothing), 422, "The request was refused.")


async def test_all_that_match_are_those_of_the_list_also_if_none_of_them_is_parked(files: MigratedUrls) -> None:
    program = stuck_going_forward(files)
    async with opened(program) as visit:
        await put_aside(program)
        page = await visit.get("/sagas?waiting=1")
        form = {name: hidden(page, name) for name in ("token", "query")} | {"which": "matching", "action": "retry"}
        assert "Retry 1 saga?" in plain(await visit.post("/repairs", form))


async def test_a_form_with_nothing_chosen_leads_back_to_the_list(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        await parked(program)
        form = {"token": await visit.token(), "query": "", "which": "chosen", "action": "retry"}
        referrer = {"referer": "http://localhost/dashboard/sagas?status=needs_attention"}
        answer = await visit.post("/repairs", form, headers=referrer)
        assert answer.status_code == 422
        assert 'href="/dashboard/sagas?status=needs_attention">Back to the page</a>' in answer.text


@pytest.mark.parametrize(
    ("action", "more", "said"),
    [
        ("resolve", {"outcome": "compensated"}, "from needs attention to compensated"),
        ("skip", {"step": "reserve_stock"}, "from needs attention to compensating"),
        ("compensate", {}, "from needs attention to compensating"),
    ],
)
async def test_every_bulk_act_says_what_it_would_do_and_does_it(
    files: MigratedUrls, action: str, more: Mapping[str, str], said: str
) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        form = {**await chosen_or_matching(visit, [saga_id], matching=True), "action": action, **more}
        assert said in plain(await visit.post("/repairs", form))
        begun = await visit.post("/repairs/begin", {**form, **FORM, "count": "1"})
        assert begun.status_code == 303
        await until(lambda: _over(visit, begun.headers["location"]), "the batch ends")
        (line,) = (await program.sagas.get(saga_id)).audit[:1]
        assert (line.by, line.action) == ("ada", action)


async def test_the_oldest_one_can_be_tried_first_and_leads_to_the_others(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        ids = [await parked(program) for _ in range(3)]
        form = {**await chosen_or_matching(visit, ids, matching=True), "action": "retry"}
        question = await visit.post("/repairs", form)
        assert "Try the oldest one first" in plain(question)
        oldest = (await program.sagas.find(SagaFilter(status=Status.NEEDS_ATTENTION, oldest_first=True))).sagas[0]
        assert f'name="id" value="{oldest.id}"' in question.text
        del program.hooks["undo:reserve_stock"]
        await visit.post(f"/sagas/{oldest.id}/retry", await form_for(visit, oldest.id))
        await finished(program, oldest.id)

        page = await visit.get(f"/sagas/{oldest.id}")

        told = plain(page)
        assert "2 other place-order sagas are still parked for the reason for which this one was." in told
        assert "Act on the other 2" in told
        assert re.search(r"Was parked \S+ to \S+ at reserve_stock in inventory: \w+: cannot do it", told)
        others = re.search(r'href="(/dashboard/sagas\?[^"]*)">Act on the other 2<', page.text)
        assert others is not None
        listed = await visit.http.get(unescape(others.group(1)))
        assert set(re.findall(r'name="id" value="([^"]+)"', listed.text)) == {str(one) for one in ids} - {
            str(oldest.id)
        }


async def test_a_list_without_a_ticked_box_is_about_all_that_match(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        ids = [await parked(program) for _ in range(3)]
        page = await visit.get("/sagas?status=needs_attention")
        assert "All 3 that match" in plain(page)
        form = {name: hidden(page, name) for name in ("token", "query")} | {"action": "retry"}
        assert "Retry 3 sagas?" in plain(await visit.post("/repairs", form))
        assert "Retry 2 sagas?" in plain(
            await visit.post("/repairs", {**form, "id": [str(one) for one in ids[:2]]})
        )
        assert (await visit.post("/repairs", {**form, "query": ""})).status_code == 422


async def test_the_question_says_that_sagas_are_being_undone_already(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        ids = [await parked(program) for _ in range(2)]
        form = await chosen_or_matching(visit, ids, matching=False)
        already = "All of them are being undone already. Compensate only goes on with that, as retry does."
        assert already in plain(await visit.post("/repairs", {**form, "action": "compensate"}))
        assert already not in plain(await visit.post("/repairs", {**form, "action": "retry"}))


async def test_an_operator_stops_a_batch_and_a_viewer_does_not(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldRepairs(monkeypatch)
    program = stuck_going_back(files)
    async with program.open():
        visit, lena = (Visit(mounted(program), who=who) for who in ("ada", "lena"))
        ids = [await parked(program) for _ in range(6)]
        form = {**await chosen_or_matching(visit, ids, matching=True), "action": "retry", **FORM, "count": "6"}
        where = (await visit.post("/repairs/begin", form)).headers["location"].removeprefix("/dashboard")
        token = {"token": form["token"]}

        page = await visit.get(where)
        assert "Stop here" in plain(page)
        assert "Stop here" not in plain(await lena.get(where))
        await lena.get("/sagas")
        assert (await lena.post(f"{where}/stop", token)).status_code == 403
        assert (await visit.post(f"{where}/stop", {"token": "another"})).status_code == 403
        assert (await visit.get(f"{where}/stop")).status_code == 405
        stopped = await visit.post(f"{where}/stop", token)
        assert (stopped.status_code, stopped.headers["location"]) == (303, f"/dashboard{where}")
        assert "Stopped by ada" in plain(await visit.get(where))
        held.go_on.set()
        await until(lambda: _over(visit, f"/dashboard{where}"), "the batch ends")
        told = plain(await visit.get(where))
        assert "Stopped by ada: 4 of 6 sagas done." in told
        assert "2 not done: they are as they were" in told
        assert "Stop here" not in told


async def test_the_page_of_an_unknown_batch_is_not_there(files: MigratedUrls) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        assert (await visit.get(f"/repairs/{uuid4()}")).status_code == 404

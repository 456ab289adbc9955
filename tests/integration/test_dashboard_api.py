"""The dashboard as JSON: the same facts, the same people, problems as RFC 9457 wants them."""

import json
import re
from html import unescape
from typing import Any
from uuid import UUID

import pytest

from polysaga import Status
from polysaga.errors import Refused
from tests.fixtures.dashboards import Visit, mounted, opened
from tests.fixtures.programs import PLACE_ORDER, MigratedUrls, Order, Program
from tests.fixtures.repairs import HeldRepairs
from tests.fixtures.waiting import until
from tests.integration.test_repairs import finished, parked, stuck_going_back

WHY = {"why": "the shelf was counted"}
PATHS = ["/overview", "/activity", "/sagas", "/databases", "/audit", "/openapi.json"]


async def test_every_question_has_an_answer(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program, who="lena") as visit:
        saga_id = await parked(program, key="k-1")
        answers = {path: await visit.get(f"/api{path}") for path in [*PATHS, f"/sagas/{saga_id}"]}
        assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
        overview = answers["/overview"].json()
        assert overview["unfinished"]["needs_attention"] == 1
        assert (overview["causes"][0]["step"], overview["causes"][0]["database"]) == ("reserve_stock", "inventory")
        (listed,) = answers["/sagas"].json()["sagas"]
        assert (listed["id"], listed["key"], listed["parked_from"]) == (str(saga_id), "k-1", "compensating")
        saga = answers[f"/sagas/{saga_id}"].json()
        assert [move["step"] for move in saga["moves"]] == ["reserve_stock", "open_order"]
        states = {row["step"]: row["state"] for ledger in saga["ledgers"] for row in ledger["rows"]}
        assert states["reserve_stock"] == "done"
        assert [one["name"] for one in answers["/databases"].json()] == ["orders", "inventory", "points"]


async def test_the_document_describes_every_address_and_its_refusals(files: MigratedUrls) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        document = (await visit.get("/api/openapi.json")).json()
        assert document["servers"] == [{"url": "/dashboard/api"}]
        assert {"/overview", "/activity", "/sagas", "/sagas/{saga_id}", "/databases", "/audit", "/repairs"} <= set(
            document["paths"]
        )
        for path, methods in document["paths"].items():
            for method, one in methods.items():
                assert one["summary"], (method, path)
                assert {"401", "403", "404", "422", "503"} <= set(one["responses"]), (method, path)
                assert "application/problem+json" in one["responses"]["403"]["content"]
                assert ("413" in one["responses"]) is (method == "post"), (method, path)


async def test_filters_and_pages_are_those_of_the_list(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysaga.dashboard.pages._PAGE", 1)
    program = stuck_going_back(files)
    async with opened(program) as visit:
        await parked(program)
        await parked(program)
        query = {"status": "needs_attention", "step": "reserve_stock", "database": "inventory"}
        first = (await visit.get("/api/sagas", params=query)).json()
        second = (await visit.get("/api/sagas", params={**query, "after": first["next"]})).json()
        assert first["sagas"][0]["id"] != second["sagas"][0]["id"]
        none = (await visit.get("/api/sagas", params={**query, "step": "credit_points"})).json()
        assert none["sagas"] == []


async def test_what_the_document_allows_is_taken(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        ids = [str(await parked(program)) for _ in range(2)]
        order = {**WHY, "action": "retry", "ids": ids}
        headers = {"content-type": "application/json"}
        for count in ("3.0", '"2"', "true", "2.5"):
            body = json.dumps(order)[:-1] + f', "count": {count}}}'
            answer = await visit.http.post("/dashboard/api/repairs", content=body, headers=headers)
            assert answer.status_code == (409 if count == "3.0" else 422), count
        body = json.dumps(order)[:-1] + ', "count": 2.0}'  # in JSON an integer
        answer = await visit.http.post("/dashboard/api/repairs", content=body, headers=headers)
        assert answer.status_code == 202
        leap = "2024-02-29T10:00:00+00:00~" + str(UUID(int=1))
        assert (await visit.get("/api/sagas", params={"after": leap})).status_code == 200


async def test_a_batch_is_stopped_where_it_works(files: MigratedUrls, monkeypatch: pytest.MonkeyPatch) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        ids = [str(await parked(program)) for _ in range(6)]
        held = HeldRepairs(monkeypatch)
        order = {**WHY, "action": "retry", "ids": ids, "count": 6}
        batch = (await visit.http.post("/dashboard/api/repairs", json=order)).json()["batch"]
        stop = f"/dashboard/api/repairs/{batch}/stop"

        assert (await visit.http.post(stop, content="{}")).status_code == 403, "not JSON"
        stopped = await visit.http.post(stop, json={})
        assert (stopped.status_code, stopped.json()["stopped_by"]) == (200, "ada")
        held.go_on.set()

        async def over() -> bool:
            return bool((await visit.get(f"/api/repairs/{batch}")).json()["ended_at"])

        await until(over, "the batch ends")
        assert (await visit.get(f"/api/repairs/{batch}")).json()["done"] == 4
        again = await visit.http.post(stop, json={})
        assert (again.status_code, again.json()["detail"]) == (409, "It has ended.")
        nowhere = await visit.http.post(f"/dashboard/api/repairs/{UUID(int=1)}/stop", json={})
        assert nowhere.status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [("/sagas?status=nonsense", 422), ("/sagas?after=zzz", 422), ("/sagas?since=2026-01-01T00:00", 422),
     ("/sagas?name=%00", 422), ("/sagas?error=" + "x" * 301, 422),
     ("/sagas?since=0001-01-01T00:00:00%2B23:00", 422), ("/sagas?until=9999-12-31T23:59:59-23:00", 422),
     ("/audit?since=0001-01-01T00:00:00%2B23:00", 422), ("/audit?until=9999-12-31T23:59:59-23:00", 422),
     (f"/sagas?after=2026-02-29T10:00:00%2B00:00~{UUID(int=1)}", 422),
     ("/sagas/1", 422), (f"/sagas/{UUID(int=1)}", 404), ("/audit?after=zzz", 422),
     (f"/repairs/{UUID(int=1)}", 404), ("/nowhere", 404)],
)  # fmt: skip
async def test_mistakes_are_problem_details(files: MigratedUrls, path: str, status: int) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        answer = await visit.get(f"/api{path}")
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/sagas", "/audit", "/overview", "/databases", "/activity"])
async def test_a_mistyped_parameter_is_refused_with_those_that_there_are(files: MigratedUrls, path: str) -> None:
    async with opened(Program(files, PLACE_ORDER)) as visit:
        answer = await visit.get(f"/api{path}?stattus=running")
        assert answer.status_code == 422
        known = {"/sagas": "are status, name, step,", "/audit": "are by, action, saga,"}.get(path, "has none")
        assert "query.stattus: there is no such parameter" in answer.json()["detail"]
        assert known in answer.json()["detail"]


async def test_an_act_is_not_carried_out_with_a_parameter_that_it_does_not_have(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        answer = await visit.http.post(f"/dashboard/api/sagas/{saga_id}/retry?dry_run=true", json=WHY)
        assert answer.status_code == 422
        assert (await program.sagas.get(saga_id)).audit == ()


async def test_the_links_of_the_pages_lead_to_the_same_as_json(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program, key="k-1")
        await program.sagas.resolve(saga_id, "compensated", by="ada", why="counted")
        for page, number in [
            ("/audit?by=ada&action=resolve&saga=k-1&since=24h", 1),
            (f"/audit?saga={saga_id}&since=30d", 1),
            ("/audit?saga=k-2", 0),
            ("/sagas?since=24h&until=9999-12-31T23:59&key=k-1&live=off", 1),
            ("/sagas?until=0900-01-01T00:00", 0),
        ]:
            link = re.search(r'href="(/dashboard/api/[^"]+)">JSON<', (await visit.get(page)).text)
            assert link is not None
            answer = (await visit.http.get(unescape(link.group(1)))).json()
            assert len(answer.get("lines", answer.get("sagas"))) == number, page


async def test_strangers_get_nothing_and_viewers_cannot_act(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open():
        app = mounted(program)
        saga_id = await parked(program)
        for path in PATHS:
            answer = await Visit(app, who=None).get(f"/api{path}")
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        lena = Visit(app, who="lena")
        for path, body in [
            (f"/sagas/{saga_id}/retry", WHY),
            ("/repairs", {**WHY, "action": "retry", "ids": [str(saga_id)], "count": 1}),
        ]:
            answer = await lena.http.post(f"/dashboard/api{path}", json=body)
            assert answer.status_code == 403
        assert (await program.sagas.get(saga_id)).audit == ()


@pytest.mark.parametrize(
    "sent",
    [
        {"json": WHY, "headers": {"sec-fetch-site": "cross-site"}},
        {"json": WHY, "headers": {"origin": "https://evil.example"}},
        {"content": b'{"why": "x"}', "headers": {"content-type": "text/plain"}},
    ],
)
async def test_pages_of_other_sites_cannot_act(files: MigratedUrls, sent: dict[str, Any]) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        answer = await visit.http.post(f"/dashboard/api/sagas/{saga_id}/retry", **sent)
        assert answer.status_code in {403, 422}
        assert (await program.sagas.get(saga_id)).audit == ()


async def test_acts_say_what_they_changed(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        saga_id = await parked(program)
        path = f"/dashboard/api/sagas/{saga_id}"
        tried = await visit.http.post(f"{path}/retry", json={**WHY, "dry_run": True})
        assert tried.json() == {"before": "needs_attention", "after": "compensating", "done": False}
        for body in [{}, {"why": " "}, {**WHY, "dry": True}]:
            assert (await visit.http.post(f"{path}/retry", json=body)).status_code == 422
        assert (await visit.http.post(f"{path}/skip", json=WHY)).status_code == 422  # which step?
        done = await visit.http.post(f"{path}/resolve", json={**WHY, "outcome": "compensated"})
        assert done.json()["done"] is True
        assert (await visit.http.post(f"{path}/retry", json=WHY)).status_code == 409
        (line,) = (await visit.get("/api/audit")).json()["lines"]
        assert (line["by"], line["action"], line["saga_id"]) == ("ada", "resolve", str(saga_id))


async def test_many_are_repaired_if_their_number_is_right(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with opened(program) as visit:
        ids = [str(await parked(program)) for _ in range(2)]
        del program.hooks["undo:reserve_stock"]
        order = {**WHY, "action": "retry", "ids": ids}
        wrong = await visit.http.post("/dashboard/api/repairs", json={**order, "count": 3})
        assert wrong.status_code == 409
        begun = await visit.http.post("/dashboard/api/repairs", json={**order, "count": 2})
        assert begun.status_code == 202

        async def over() -> bool:
            answer = await visit.get(f"/api/repairs/{begun.json()['batch']}")
            return answer.json()["done"] == 2

        await until(over, "both are repaired")


async def test_masked_values_are_in_no_json(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    secret = "lantern-of-mrs-whitfield"

    async def refuse(db: Any, ctx: Any) -> None:
        raise Refused(f"no {secret} left", facts={"item": secret})

    program.on("confirm_order", refuse)
    async with opened(program, mask=("item",)) as visit:
        with pytest.raises(Refused):
            await program.sagas.run(program.saga, Order(item=secret), key=f"key of {secret}")
        (saga,) = (await program.sagas.find()).sagas
        assert (await finished(program, saga.id)).status is Status.COMPENSATED
        for path in ["/overview", "/sagas", f"/sagas/{saga.id}", "/audit"]:
            assert secret not in (await visit.get(f"/api{path}")).text, path
        assert (await visit.get(f"/api/sagas/{saga.id}")).json()["input"] == {"item": "masked"}

"""Only operators list and repair sagas over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import Depends, FastAPI

from orders.app import create_app
from orders.databases import orders
from orders.sagas import sagas
from orders.settings import load
from polysaga.databases import SqlNode
from polysaga.fastapi import operator_routes

from .conftest import Client

TOKEN = "open-sesame"
HERE, ELSEWHERE = "127.0.0.1", "203.0.113.9"


@asynccontextmanager
async def shop_for(
    directory: Path, *, token: str | None = TOKEN, client: str = ELSEWHERE, name: str = "shop.example"
) -> AsyncIterator[Client]:
    """Open the service and yield a client on the machine *client* that calls it *name*."""
    app = create_app(load(directory), operator_token=token)
    transport = httpx2.ASGITransport(app=app, client=(client, 5000))
    async with app.router.lifespan_context(app), Client(transport=transport, base_url=f"http://{name}") as caller:
        yield caller


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Client]:
    async with shop_for(tmp_path) as client:
        yield client


@pytest.fixture
def ours() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}", "X-Operator": "ada"}


async def park(saga_id: str) -> None:
    """Make a completed saga look as if the worker had parked it while it was going forward."""
    node = orders.primary
    assert isinstance(node, SqlNode)
    error = '{"parked": {"kind": "failed", "step": "record_event", "message": "no", "from": "completing"}}'
    parked = f"status = 'needs_attention', wake_at = {node.dialect.clock}, error = :error"
    sql = f"UPDATE polysaga_journal SET {parked} WHERE id = :id"
    statement = node.dialect.render(sql)
    async with node.writer.begin() as connection:
        values = statement.bind({"error": error, "id": node.dialect.key(UUID(saga_id))})
        await connection.exec_driver_sql(statement.sql, values)


async def placed(shop: Client) -> str:
    await shop.stock()
    saga_id = str((await shop.order()).json()["id"])
    await shop.rest(saga_id)
    return saga_id


async def test_operators_see_what_there_is_page_by_page(shop: Client, ours: dict[str, str]) -> None:
    ids = [await placed(shop) for _ in range(3)]
    first = (await shop.get("/sagas", params={"limit": 2}, headers=ours)).json()
    rest = (await shop.get("/sagas", params={"after": first["next"]}, headers=ours)).json()
    assert [saga["id"] for saga in first["sagas"] + rest["sagas"]] == ids[::-1]
    assert (first["sagas"][0]["name"], first["sagas"][0]["status"]) == ("place-order", "completed")
    none = await shop.get("/sagas", params={"status": "needs_attention"}, headers=ours)
    assert none.json() == {"sagas": [], "next": None, "searched_to": None}


async def test_a_parked_saga_goes_on_and_the_audit_trail_names_the_operator(
    shop: Client, ours: dict[str, str]
) -> None:
    saga_id = await placed(shop)
    await park(saga_id)
    dry = await shop.post(f"/sagas/{saga_id}/retry", json={"why": "look first", "dry_run": True}, headers=ours)
    assert (dry.json()["after"], dry.json()["done"]) == ("completing", False)
    done = await shop.post(f"/sagas/{saga_id}/retry", json={"why": "the disk is back"}, headers=ours)
    assert (done.status_code, done.json()["done"]) == (200, True)
    (entry,) = (await sagas.get(UUID(saga_id))).audit
    assert (entry.by, entry.action, entry.why) == ("ada", "retry", "the disk is back")


async def test_many_are_only_repaired_when_that_is_said(shop: Client, ours: dict[str, str]) -> None:
    await park(await placed(shop))
    asked: dict[str, Any] = {"action": "retry", "wanted": {"status": ["needs_attention"]}, "why": "all of them"}
    (dry,) = (await shop.post("/sagas/repairs", json=asked, headers=ours)).json()
    assert not dry["done"]
    (done,) = (await shop.post("/sagas/repairs", json={**asked, "dry_run": False}, headers=ours)).json()
    assert done["done"]
    everything = await shop.post("/sagas/repairs", json={**asked, "wanted": {}}, headers=ours)
    assert everything.status_code == 422


@pytest.mark.parametrize("parameter", ["dry_run", "dryrun", "why"])
async def test_a_parameter_beside_the_body_of_an_act_is_refused_and_nothing_is_done(
    shop: Client, ours: dict[str, str], parameter: str
) -> None:
    saga_id = await placed(shop)
    await park(saga_id)
    body = {"why": "the disk is back"}
    answer = await shop.post(f"/sagas/{saga_id}/retry?{parameter}=true", json=body, headers=ours)
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        f"query.{parameter}: there is no such parameter; send what you ask for as JSON, in the body"
    )
    assert (await sagas.get(UUID(saga_id))).status == "needs_attention"


async def test_a_parameter_that_a_list_does_not_have_is_refused(shop: Client, ours: dict[str, str]) -> None:
    answer = await shop.get("/sagas?state=parked", headers=ours)
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "query.state: there is no such parameter; leave it out",
    )


async def test_a_parameter_of_the_programs_own_dependency_is_let_through(shop: Client) -> None:
    async def tenant(of: str = "all") -> None: ...

    app = FastAPI()
    app.include_router(operator_routes(sagas), prefix="/sagas", dependencies=[Depends(tenant)])
    transport = httpx2.ASGITransport(app=app, client=(HERE, 5000))
    async with Client(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/sagas?of=north&limit=5")).status_code == 200
        assert (await client.get("/sagas?from=north")).status_code == 422


@pytest.mark.parametrize(
    "asked",
    [
        {"key": ""},
        {"name": ""},
        {"error": ""},
        {"name": "a\0b"},
        {"older_than": -1},
        {"older_than": "nan"},
        {"older_than": "inf"},
        {"older_than": 1e300},
        {"after": ""},
        {"after": "zzz"},
        {"after": f"0001-01-01T00:00:00+12:00~{UUID(int=1)}"},
        {"after": f"2026-01-01T00:00:00~{UUID(int=1)}"},
        {"status": "lost"},
    ],
)
async def test_a_search_that_makes_no_sense_is_told_in_the_words_of_the_client(
    shop: Client, ours: dict[str, str], asked: dict[str, Any]
) -> None:
    answer = await shop.get("/sagas", params=asked, headers=ours)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:polysaga:problem:validation")
    assert answer.json()["detail"].startswith(f"query.{next(iter(asked))}")
    assert "SagaPage" not in answer.text


@pytest.mark.parametrize(
    "change",
    [
        {"why": "\n"},
        {"why": "a\0b"},
        {"why": "x" * 2001},
        {"wanted": {}},
        {"wanted": {"name": None}},
        {"wanted": {"status": []}},
        {"wanted": {"older_than": "soon"}},
        {"wanted": {"older_than": False}},
        {"wanted": {"nam": "place-order"}},
        {"dryrun": False},
        {"dry_run": 0},
        {"dry_run": "no"},
        {"limit": "5"},
    ],
)
async def test_an_order_for_many_that_is_not_clear_is_not_carried_out(
    shop: Client, ours: dict[str, str], change: dict[str, Any]
) -> None:
    await park(await placed(shop))
    asked = {"action": "retry", "wanted": {"name": "place-order"}, "why": "all", "dry_run": False, **change}
    answer = await shop.post("/sagas/repairs", json=asked, headers=ours)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:polysaga:problem:validation")
    (left,) = (await shop.get("/sagas", params={"status": "needs_attention"}, headers=ours)).json()["sagas"]
    assert left["status"] == "needs_attention"


async def test_what_cannot_be_repaired_is_a_problem_that_says_why(shop: Client, ours: dict[str, str]) -> None:
    saga_id = await placed(shop)
    late = await shop.post(f"/sagas/{saga_id}/compensate", json={"why": "regret"}, headers=ours)
    assert (late.status_code, late.json()["type"]) == (409, "urn:polysaga:problem:too-late")
    rest = await shop.post(f"/sagas/{saga_id}/retry", json={"why": "again"}, headers=ours)
    assert (rest.status_code, rest.json()["type"]) == (409, "urn:polysaga:problem:wrong-status")
    unknown = await shop.post(f"/sagas/{uuid4()}/retry", json={"why": "again"}, headers=ours)
    assert unknown.status_code == 404
    silent = await shop.post(f"/sagas/{saga_id}/retry", json={"why": ""}, headers=ours)
    assert silent.status_code == 422
    await park(saga_id)
    nonsense = await shop.post(f"/sagas/{saga_id}/skip", json={"why": "x", "step": "dance"}, headers=ours)
    assert nonsense.status_code == 422
    assert "its steps are open_order" in nonsense.json()["detail"]


@pytest.mark.parametrize("shown", [None, "Bearer wrong", f"Basic {TOKEN}", "Bearer ", "Bearer öffne"])
async def test_nobody_without_the_token_gets_in(shop: Client, shown: str | None) -> None:
    headers = {} if shown is None else {"Authorization": shown.encode("latin-1")}
    for answer in (
        await shop.get("/sagas", headers=headers),
        await shop.post(f"/sagas/{uuid4()}/retry", json={"why": "please"}, headers=headers),
        await shop.post("/sagas/repairs", json={}, headers=headers),
    ):
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_a_token_with_letters_outside_ascii_is_compared_as_clients_encode_it(tmp_path: Path) -> None:
    token, name = "sesam-öffne-dich à", "Ada Größe"
    sent = {"Authorization": f"Bearer {token}".encode(), "X-Operator": name.encode()}
    async with shop_for(tmp_path, token=token) as shop:
        saga_id = await placed(shop)
        await park(saga_id)
        done = await shop.post(f"/sagas/{saga_id}/retry", json={"why": "the disk is back"}, headers=sent)
        assert done.status_code == 200
        assert [entry.by for entry in (await sagas.get(UUID(saga_id))).audit] == [name]
        wrong = {"Authorization": f"Bearer {token}".encode("latin-1")}
        assert (await shop.get("/sagas", headers=wrong)).status_code == 401


@pytest.mark.parametrize("shown", ["Basic é", "Basic ///", "Basic"])
async def test_a_password_that_is_no_base64_is_asked_for_again(shop: Client, shown: str) -> None:
    answer = await shop.get("/dashboard/", headers={"Authorization": shown.encode("latin-1")})
    assert answer.status_code == 401


@pytest.mark.parametrize("asked", [{"stats": "failed"}, {"name": ["a", "b"]}, {"limit": [1, 2]}])
async def test_a_condition_that_would_be_ignored_is_refused(
    shop: Client, ours: dict[str, str], asked: dict[str, Any]
) -> None:
    answer = await shop.get("/sagas", params=asked, headers=ours)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:polysaga:problem:validation")
    assert answer.json()["detail"].startswith(f"query.{next(iter(asked))}: ")
    several = await shop.get("/sagas", params={"status": ["completed", "compensated"]}, headers=ours)
    assert several.status_code == 200


async def test_a_page_of_another_site_may_not_act(shop: Client, ours: dict[str, str]) -> None:
    told = await shop.post(
        f"/sagas/{uuid4()}/retry", json={"why": "trick"}, headers={**ours, "Sec-Fetch-Site": "cross-site"}
    )
    assert told.status_code == 403


@pytest.mark.parametrize(
    ("client", "name", "headers", "status"),
    [
        (HERE, "localhost", {}, 200),
        ("::1", "127.0.0.1", {}, 200),
        (ELSEWHERE, "localhost", {}, 403),
        (HERE, "rebound.example", {}, 403),
        (HERE, "localhost", {"X-Forwarded-For": ELSEWHERE}, 403),
    ],
    ids=["this machine", "this machine, IPv6", "another machine", "a name that was rebound", "behind a proxy"],
)
async def test_without_a_token_only_this_machine_is_served(
    tmp_path: Path, client: str, name: str, headers: dict[str, str], status: int
) -> None:
    async with shop_for(tmp_path, token=None, client=client, name=name) as shop:
        assert (await shop.get("/sagas", headers=headers)).status_code == status

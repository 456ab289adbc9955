"""Whatever a client sends for a bookmark: it is answered, by a replica, and nothing of it reaches a statement."""

import asyncio
import math
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from polysaga.asgi import HEADER, ROUTE
from polysaga.databases.positions import Epoch, Lsn, parse_maria_gtid
from polysaga.routing.bookmarks import sign
from tests.fixtures.notes import Notes, settings_of
from tests.fixtures.servers import PostgresCluster

KEY = b"a secret of the tests"
COOKIE = "polysaga_bookmark_notes"
FAR = 2**63  # no server will ever get there


@pytest.fixture
async def notes(postgres_cluster: PostgresCluster) -> AsyncIterator[Notes]:
    name = f"notes_{time.monotonic_ns()}"
    await asyncio.to_thread(postgres_cluster.primary.create_database, name)
    await asyncio.to_thread(postgres_cluster.catch_up)
    # A read that has to ask the primary fails, so that it is seen.
    settings = settings_of(postgres_cluster.urls(name), no_replica="fail", max_lag=60.0, probe_timeout=30.0)
    async with Notes().open(settings) as app:
        await asyncio.to_thread(postgres_cluster.catch_up)
        async with asyncio.timeout(60):
            # How far a replica is behind shows from the second question on.
            while any(math.isinf(node.lag) for node in app.router.topology.nodes[1:]):
                await app.router.monitor.news(1.0)
        yield app


@pytest.fixture
async def client(notes: Notes) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(notes.app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as one:
        yield one


def here(notes: Notes) -> Epoch:
    state = notes.router.topology.primary_state
    assert state is not None
    assert state.position is not None
    return state.position.epoch


def hostile(epoch: Epoch) -> dict[str, str]:
    """Bookmarks that harm no client, and send no read to the primary."""
    honest = sign({"notes": Lsn(1, epoch)}, KEY)
    forged = sign({"notes": Lsn(FAR, epoch)}, b"another key")
    return {
        "forged": forged,
        "with an honest signature under another text": forged.rpartition(".")[0] + "." + honest.rpartition(".")[2],
        "truncated": sign({"notes": Lsn(FAR, epoch)}, KEY)[:-1],
        "without a signature": sign({"notes": Lsn(FAR, epoch)}, KEY).rpartition(".")[0],
        "of another cluster": sign({"notes": Lsn(FAR, Epoch("elsewhere", 1))}, KEY),
        "of another kind": sign({"notes": parse_maria_gtid("0-1-9223372036854775807")}, KEY),
        "of another database": sign({"users": Lsn(FAR, epoch)}, KEY),
        "empty": "",
        "of a megabyte": "v1." + "a" * 2**20,
        "SQL": "v1.notes=pg:.0:0/0'; DROP TABLE notes; --." + "A" * 22,
        "dots": "." * 3000,
    }


@pytest.mark.parametrize("kind", hostile(Epoch()))
@pytest.mark.parametrize("way", ["header", "cookie"])
async def test_a_hostile_bookmark_counts_as_none(
    notes: Notes, client: httpx2.AsyncClient, kind: str, way: str
) -> None:
    text = hostile(here(notes))[kind]
    carried = {HEADER: text} if way == "header" else {"Cookie": f"{COOKIE}={text}"}
    for _ in range(3):
        answer = await client.get("/notes/1", headers=carried)
        assert answer.status_code == 200
        assert "replica" in answer.headers[ROUTE]


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00\x01", bytes(range(128, 256)), b'"; x=', b"v1.notes=\xc3\xa9.A"])
async def test_bytes_that_are_no_text_count_as_none(client: httpx2.AsyncClient, raw: bytes) -> None:
    for carried in ((HEADER.encode(), raw), (b"Cookie", COOKIE.encode() + b"=" + raw)):
        answer = await client.get("/notes/1", headers=[carried])
        assert answer.status_code == 200
        assert "replica" in answer.headers[ROUTE]


async def test_a_bookmark_of_a_future_that_was_lost_is_soon_replaced(
    notes: Notes, client: httpx2.AsyncClient
) -> None:
    """Ours, but past the primary: writes that a failover lost."""
    bookmark = sign({"notes": Lsn(FAR, here(notes))}, KEY)
    async with asyncio.timeout(60):
        while True:
            answer = await client.get("/notes/1", headers={HEADER: bookmark})
            if answer.status_code == 200:
                break
            assert answer.status_code == 503
    assert "replica" in answer.headers[ROUTE]
    assert answer.headers[HEADER] != bookmark
    again = await client.get("/notes/1", headers={HEADER: answer.headers[HEADER]})
    assert "replica" in again.headers[ROUTE]

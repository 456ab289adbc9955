"""MongoDB with several members: which settings the driver gets, as the server hears them."""

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pymongo import ReadPreference, monitoring

from polysaga import Databases, MongoDatabase, MongoSession
from polysaga.clock import Clock
from polysaga.config import DatabaseSettings, parse_settings
from polysaga.databases import MongoNode
from polysaga.databases.dialects.mongo import Mongo
from polysaga.databases.positions import ClusterTime
from polysaga.sagas.participants import Entry
from polysaga.sagas.participants.mongo import MongoParticipant


class Heard(monitoring.CommandListener):
    """Keeps the commands that were sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append(event.command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def last(self, name: str) -> Any:
        return next(command for command in reversed(self.sent) if name in command)


class Program:
    def __init__(self) -> None:
        self.stock = MongoDatabase("stock")
        self.databases = Databases(self.stock)
        self.heard = Heard()


@pytest.fixture
async def program(mongo_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Program]:
    """The server of the tests is alone; it is taken for one member of three."""
    found, ping = Program(), MongoNode.ping

    async def of_three(node: MongoNode) -> None:
        await ping(node)
        node.members = 3

    monkeypatch.setattr(MongoNode, "ping", of_three)
    arguments = Mongo.client_arguments
    monkeypatch.setattr(
        Mongo,
        "client_arguments",
        lambda self, settings: {**arguments(self, settings), "event_listeners": [found.heard]},
    )
    settings = {
        "databases": {"stock": {"url": mongo_database()}},
        "bookmarks": {"secret": "a secret of the tests"},
    }
    async with found.databases.open(parse_settings(settings)):
        yield found


async def test_a_reader_prefers_secondaries_and_has_seen_what_the_scope_wrote(program: Program) -> None:
    with program.databases.scope() as scope:
        async with program.stock.writer() as db:
            await db["items"].insert_one({"_id": 1})
        written = scope.required["stock"]
        assert isinstance(written, ClusterTime)
        async with program.stock.reader() as db:
            assert await db["items"].find_one({"_id": 1}) == {"_id": 1}
            # What is sent to a server without members is another mode: the driver knows that it is alone.
            assert db["items"].read_preference == ReadPreference.SECONDARY_PREFERRED
    told = program.heard.last("find")
    assert told["readConcern"]["level"] == "majority"
    after = told["readConcern"]["afterClusterTime"]
    assert ClusterTime(after.time, after.inc).reached(written)


async def test_the_next_request_or_job_has_seen_it_too(program: Program) -> None:
    with program.databases.scope():
        async with program.stock.writer() as db:
            await db["items"].insert_one({"_id": 1})
        bookmark = await program.databases.bookmark()
    with program.databases.scope(bookmark) as scope:
        async with program.stock.reader() as db:
            await db["items"].find_one({"_id": 1})
        assert "afterClusterTime" in program.heard.last("find")["readConcern"]
        assert not await scope.news()
    with program.databases.scope():
        async with program.stock.reader() as db:
            await db["items"].find_one({"_id": 1})
        assert "afterClusterTime" not in program.heard.last("find")["readConcern"]


async def test_what_somebody_else_committed_for_the_scope_is_asked_for(program: Program) -> None:
    with program.databases.scope() as scope:
        program.stock.wrote()
        await scope.settle()
        assert isinstance(scope.required["stock"], ClusterTime)


async def test_a_strong_reader_goes_to_the_primary(program: Program) -> None:
    async with program.stock.reader(consistency="strong") as db:
        await db["items"].find_one({"_id": 1})
        assert db["items"].read_preference == ReadPreference.PRIMARY


async def test_sagas_read_from_the_primary_whatever_the_url_prefers(
    mongo_database: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """A ledger row that a secondary does not have yet would be taken for a step that never happened."""
    address = mongo_database()
    url = f"{address}{'&' if '?' in address else '?'}readPreference=secondaryPreferred&maxStalenessSeconds=90"
    node = MongoNode("stock", "primary", url, DatabaseSettings(url=url))
    ledger = MongoParticipant(node, Clock())
    outbox = ledger.outbox
    step = Entry(uuid4(), "reserve", 1, datetime.now(UTC) + timedelta(hours=1))

    async def reserve(session: MongoSession) -> str:
        return str(await session["items"].count_documents({}))

    async def free(session: MongoSession, result: str | None) -> None:
        await session["items"].find_one({})

    try:
        with caplog.at_level(logging.DEBUG, "pymongo.serverSelection"):
            await ledger.act(step, reserve)
            await ledger.look(step.saga_id, [step.step])
            await ledger.undo(step, free)
            await outbox.find(step.saga_id)
            await outbox.page(1)
            await ledger.page(UUID(int=0), UUID(int=1), 1)
            async with node.session() as session, session.transaction() as within:
                await within["items"].find_one({})
        asked = Counter(json.loads(record.getMessage())["operation"] for record in caplog.records)
        assert {"find", "count", "insert", "findAndModify"} <= asked.keys()
        assert not [record for record in caplog.records if "SecondaryPreferred(" in record.getMessage()]
    finally:
        await node.close()

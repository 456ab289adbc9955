"""Sagas that start with a transaction of the caller's, from every database that takes part."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine

from polysaga import Databases, MongoSession, Refused, Saga, SagaHandle, Sagas, SqlDatabase, StepContext
from polysaga.config import SagaSettings
from polysaga.errors import DatabaseUnavailable, KeyReused, NeedsAttention, NotEnlisted, NotStarted, UnknownSaga
from polysaga.events import SagaFinished, SagaNotKnown, SagaStarted, StartParked
from polysaga.migrations import migrate
from polysaga.sagas import ContradictionKind, Status
from polysaga.sagas.participants.outboxes import Outbox, Waiting, waiting_of
from polysaga.sagas.process import drain
from polysaga.sagas.process.drain import Drain
from polysaga.sagas.process.enlisting import Enlisting
from polysaga.testing import on_sqlite
from tests.fixtures.programs import (
    LAST_AT_HOME,
    LEDGER_PIVOT,
    PLACE_ORDER,
    SHAPES,
    Gate,
    MigratedUrls,
    Order,
    Program,
    Recorder,
    Urls,
)
from tests.fixtures.proxy import Proxy
from tests.fixtures.waiting import reached, until

ALONE = 3600.0  # seconds of a lease whose rounds come once; what wakes them is under test
ALL_DONE = {name: 1 for name, *_ in PLACE_ORDER}
PLACES = ["orders", "inventory", "points"]  # the journal's database, and two outboxes


class RolledBack(Exception):
    """What the caller's transaction fails with."""


@asynccontextmanager
async def transaction(program: Program, place: str) -> AsyncIterator[Any]:
    """Lend a transaction of the database; it commits at the end."""
    async with program.handles[place].writer() as db:
        if isinstance(db, MongoSession):
            async with db.transaction() as within:
                yield within
        else:
            yield db


async def note(db: Any, item: str) -> None:
    """Write something of the caller's own."""
    if isinstance(db, MongoSession):
        await db["effects"].insert_one({"saga": item, "step": "caller", "sign": 1})
    else:
        row = {"saga": item, "step": "caller", "sign": 1}
        await db.execute(text("INSERT INTO effects (saga, step, sign) VALUES (:saga, :step, :sign)"), row)


async def noted(program: Program, item: str) -> int:
    """Count what the caller wrote."""
    found = 0
    for handle in program.handles.values():
        async with handle.reader() as db:
            if isinstance(db, MongoSession):
                found += await db["effects"].count_documents({"saga": item})
            else:
                sql = text("SELECT count(*) FROM effects WHERE saga = :saga")
                found += await db.scalar(sql, {"saga": item}) or 0
    return found


def enlisting(program: Program) -> Enlisting:
    assert program.sagas._opened is not None
    return program.sagas._opened.enlisting


def outboxes(program: Program) -> Mapping[str, Outbox]:
    """Return the outboxes by database."""
    return program.runner.engine.outboxes


async def waiting(program: Program) -> list[Waiting]:
    """Return what stands in the outboxes and is not parked."""
    rows: list[Waiting] = []
    for outbox in outboxes(program).values():
        rows += await outbox.page(100)
    return rows


async def all_moved(program: Program) -> None:
    """Return when nothing is left: a drain removes what it moved after it has announced the sagas."""

    async def empty() -> bool:
        return await waiting(program) == []

    await until(empty, "the outboxes are empty")


async def put(program: Program, place: str, row: Waiting) -> Outbox:
    outbox = outboxes(program)[place]
    async with transaction(program, place) as db:
        await outbox.put(db, row)
    return outbox


async def completed(program: Program, saga_id: UUID) -> None:
    finished = await program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == saga_id)
    assert finished.status == "completed"


def starts(program: Program, saga_id: UUID) -> int:
    """Return how often the start of the saga was announced."""
    return sum(event.saga_id == saga_id for event in program.recorder.of(SagaStarted))


@pytest.mark.parametrize("place", PLACES)
async def test_a_start_is_nothing_before_the_commit_and_a_saga_after_it(urls: Urls, place: str) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=2.0) as program:
        item = uuid4().hex
        async with transaction(program, place) as db:
            await note(db, item)
            handle = await program.sagas.start(program.saga, Order(), tx=db)
            assert not handle.joined
            with pytest.raises(NotStarted, match="not committed yet"):
                await handle.result(5)
        assert await handle.result(30) is not None
        await completed(program, handle.id)
        assert await program.effects(handle.id) == ALL_DONE
        assert await noted(program, item) == 1
        await all_moved(program)
        assert not (await program.sagas.verify()).contradictions


@pytest.mark.parametrize("place", ["orders", "points"])
async def test_the_process_that_committed_begins_at_once(urls: Urls, place: str) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=ALONE) as program:
        async with transaction(program, place) as db:
            handle = await program.sagas.start(program.saga, Order(), tx=db)
        await completed(program, handle.id)


@pytest.mark.parametrize("place", PLACES)
async def test_a_transaction_that_is_rolled_back_leaves_nothing(urls: Urls, place: str) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as program:
        item = uuid4().hex
        with contextlib.suppress(RolledBack):
            async with transaction(program, place) as db:
                await note(db, item)
                handle = await program.sagas.start(program.saga, Order(), key="k-1", tx=db)
                raise RolledBack
        with pytest.raises(NotStarted, match="rolled back"):
            await handle.result(5)
        with pytest.raises(UnknownSaga):
            await program.sagas.get(handle.id)
        assert await noted(program, item) == 0
        assert await waiting(program) == []
        # The key is free: nothing was started with it.
        again = await program.sagas.start(program.saga, Order(item="candle"), key="k-1")
        assert again.id == handle.id
        assert not again.joined
        await again.result(30)


@pytest.mark.parametrize("place", ["orders", "points"])
async def test_a_savepoint_that_is_rolled_back_takes_the_start_with_it(urls: Urls, place: str) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=ALONE) as program:
        item = uuid4().hex
        async with transaction(program, place) as db:
            with contextlib.suppress(RolledBack):
                async with db.begin_nested():
                    gone = await program.sagas.start(program.saga, Order(), tx=db)
                    raise RolledBack
            async with db.begin_nested():
                kept = await program.sagas.start(program.saga, Order(), tx=db)
            with pytest.raises(NotStarted, match="not committed yet"):
                await kept.result(5)  # a savepoint that is released commits nothing
            await note(db, item)
        await completed(program, kept.id)
        with pytest.raises(NotStarted, match="rolled back"):
            await gone.result(5)
        assert starts(program, gone.id) == 0


@pytest.mark.parametrize("how", ["of the session", "of the connection", "around a released one"])
async def test_a_start_that_a_savepoint_has_undone_is_announced_only_if_it_is_repeated(
    urls: Urls, how: str
) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=ALONE) as program:
        async with transaction(program, "orders") as db:
            outer = await db.connection() if how == "of the connection" else db
            with contextlib.suppress(RolledBack):
                async with outer.begin_nested():
                    inner = db.begin_nested() if how == "around a released one" else contextlib.nullcontext()
                    async with inner:
                        gone = await program.sagas.start(program.saga, Order(), key="k-1", tx=db)
                        other = await program.sagas.start(program.saga, Order(), tx=db)
                    raise RolledBack
            for handle in (gone, other):
                with pytest.raises(NotStarted, match="rolled back"):
                    await handle.result(5)  # a look at the journal would wait for this transaction
            again = await program.sagas.start(program.saga, Order(), key="k-1", tx=db)
            assert not again.joined
        await completed(program, again.id)
        assert (starts(program, gone.id), starts(program, other.id)) == (1, 0)


async def test_a_session_within_a_transaction_of_another_one_starts_nothing_by_its_commit(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=ALONE) as program:
        for fails in (True, False):
            with contextlib.suppress(RolledBack):
                async with transaction(program, "orders") as db:
                    async with AsyncSession(await db.connection()) as within_it:
                        handle = await program.sagas.start(program.saga, Order(), tx=within_it)
                        await within_it.commit()
                    with pytest.raises(NotStarted, match="not committed yet"):
                        await handle.result(5)
                    if fails:
                        raise RolledBack
            assert starts(program, handle.id) == 0
        program.runner.due.set()
        await completed(program, handle.id)


@pytest.mark.parametrize("place", PLACES)
async def test_if_the_process_dies_after_the_commit_another_one_begins(
    urls: Urls, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying, other = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with dying.open(lease=ALONE):
        monkeypatch.setattr(enlisting(dying), "_committed", lambda *_: None)
        async with transaction(dying, place) as db:
            handle = await dying.sagas.start(dying.saga, Order(), tx=db)
    async with other.open(lease=1.0):
        await completed(other, handle.id)
        assert await other.effects(handle.id) == ALL_DONE


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_a_crash_between_journal_and_outbox_starts_nothing_twice(
    urls: Urls, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as program:
        outbox = outboxes(program)[place]
        remove, dies = outbox.remove, iter([True, True])

        async def die(saga_ids: Any) -> None:
            if next(dies, False):
                raise ConnectionResetError
            await remove(saga_ids)

        monkeypatch.setattr(outbox, "remove", die)
        async with transaction(program, place) as db:
            handle = await program.sagas.start(program.saga, Order(), tx=db)
        await completed(program, handle.id)
        await program.recorder.wait_for(SagaStarted, lambda event: event.joined)
        await all_moved(program)
        assert await program.effects(handle.id) == ALL_DONE
        assert len(program.recorder.of(SagaFinished)) == 1


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_two_processes_that_move_one_row_at_the_same_time_start_one_saga(
    urls: Urls, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with slow.open(lease=ALONE), quick.open(lease=ALONE):
        journal, read, go = slow.runner.engine.journal, asyncio.Event(), asyncio.Event()
        enlist = journal.enlist_all

        async def wait(births: Any) -> Any:
            read.set()
            await reached(go, "the test lets it go on")
            return await enlist(births)

        monkeypatch.setattr(journal, "enlist_all", wait)
        async with transaction(slow, place) as db:
            handle = await slow.sagas.start(slow.saga, Order(), tx=db)
        outboxes(slow)[place].news.set()
        await reached(read, "the row is read")
        outboxes(quick)[place].news.set()
        await completed(quick, handle.id)
        go.set()
        moved = await slow.recorder.wait_for(SagaStarted)
        assert moved.joined
        await all_moved(slow)
        assert await quick.effects(handle.id) == ALL_DONE


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_rows_that_cannot_be_moved_are_parked_visibly_and_hold_up_nobody(urls: Urls, place: str) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as program:
        await program.sagas.run(program.saga, Order(), key="taken", timeout=30)
        birth = program.runner.birth(program.definition, Order(item="candle"), "taken")
        bad = [
            Waiting(uuid4(), "place-order", "{"),
            Waiting(uuid4(), "place-order", '{"name": "place-order"}'),
            Waiting(uuid4(), "place-order", "[]"),
            waiting_of(birth),
        ]
        for row in bad:
            outbox = await put(program, place, row)
        async with transaction(program, place) as db:
            handle = await program.sagas.start(program.saga, Order(), tx=db)
        assert await handle.result(30) is not None
        for row in bad:
            parked = await program.recorder.wait_for(
                StartParked, lambda event, row=row: event.saga_id == row.saga_id
            )
            assert parked.database == place
            found = await outbox.find(row.saga_id)
            assert found is not None
            assert found.error == parked.reason
        assert "was used for another input" in parked.reason
        await all_moved(program)
        stuck = (await program.sagas.verify()).contradictions
        assert {(one.kind, one.saga_id, one.saga, one.status, one.database) for one in stuck} == {
            (ContradictionKind.PARKED_START, row.saga_id, "place-order", None, place) for row in bad
        }
        (taken,) = (one.detail for one in stuck if one.saga_id == birth.claim.saga_id)
        assert parked.reason in taken
        assert "delete this row of polysaga_outbox" in taken


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_a_start_that_no_process_moves_is_found_when_it_is_late(
    urls: Urls, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stand_still(_: Drain) -> None:
        return

    with monkeypatch.context() as patched:
        patched.setattr(Drain, "drain", stand_still)
        async with Program(urls, PLACE_ORDER).open() as program:
            async with transaction(program, place) as db:
                handle = await program.sagas.start(program.saga, Order(), tx=db)
            assert (await program.sagas.verify()).clean  # ten leases are not over
            found = await program.sagas.verify(SagaSettings(lease=0.0001))
            assert [(one.kind, one.saga_id, one.database) for one in found.contradictions] == [
                (ContradictionKind.WAITING_START, handle.id, place)
            ]
            assert found.complete
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as later:
        await completed(later, handle.id)
        assert (await later.sagas.verify()).clean


async def test_a_start_of_a_saga_that_nobody_here_knows_goes_to_the_journal_and_waits_there(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as program:
        birth = program.runner.birth(program.definition, Order(), None)
        await put(program, "points", waiting_of(replace(birth, fingerprint="f" * 32, version=2)))
        outboxes(program)["points"].news.set()
        await program.recorder.wait_for(SagaStarted)
        assert (await program.sagas.get(birth.claim.saga_id)).status is Status.RUNNING
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as later:
        reported = await later.recorder.wait_for(SagaNotKnown)
        assert (reported.saga_id, reported.version) == (birth.claim.saga_id, 2)


async def test_an_input_that_no_longer_fits_parks_its_saga(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as program:
        runner = program.runner
        birth = runner.birth(program.definition, Order(), None)
        await put(program, "points", waiting_of(replace(birth, input='{"item": 7}')))
        outboxes(program)["points"].news.set()
        await program.recorder.wait_for(SagaStarted)
        with pytest.raises(NeedsAttention, match="does not fit its type"):
            await runner.handle(program.definition, birth.claim.saga_id).result(30)


@pytest.mark.parametrize("place", PLACES)
async def test_a_key_is_one_saga_also_across_transactions(urls: Urls, place: str) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as program:
        async with transaction(program, place) as db:
            first = await program.sagas.start(program.saga, Order(), key="k-2", tx=db)
            twice = await program.sagas.start(program.saga, Order(), key="k-2", tx=db)
            assert twice.id == first.id
            assert (first.joined, twice.joined) == (False, True)
            if not isinstance(db, MongoSession):
                with pytest.raises(NotStarted, match="not committed yet"):
                    await twice.result(5)
            with pytest.raises(KeyReused):
                await program.sagas.start(program.saga, Order(item="candle"), key="k-2", tx=db)
        outputs = [await handle.result(30) for handle in (first, twice)]
        assert outputs[0] == outputs[1]
        await completed(program, first.id)
        async with transaction(program, place) as db:
            later = await program.sagas.start(program.saga, Order(), key="k-2", tx=db)
            assert later.joined
            with pytest.raises(KeyReused):
                await program.sagas.start(program.saga, Order(item="candle"), key="k-2", tx=db)
        assert await later.result(30) == outputs[0]
        assert await program.effects(first.id) == ALL_DONE


async def test_one_key_in_two_databases_at_the_same_moment_is_one_saga_and_one_parked_start(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as program:
        async with transaction(program, "inventory") as one, transaction(program, "points") as other:
            handles = [
                await program.sagas.start(program.saga, Order(item=item), key="k-3", tx=db)
                for item, db in (("lantern", one), ("candle", other))
            ]
        outcomes = await asyncio.gather(*(handle.result(30) for handle in handles), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(refused) == 1
        assert isinstance(refused[0], KeyReused | NotStarted)
        await program.recorder.wait_for(StartParked)
        await program.recorder.wait_for(SagaFinished)
        assert len(program.recorder.of(SagaStarted)) == 1


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_starts_of_a_former_program_are_moved_from_a_database_without_sagas(
    urls: Urls, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "_BATCH", 1)  # what another program has written first must not be in the way
    async with Program(urls, PLACE_ORDER).open(lease=ALONE) as former:
        birth = former.runner.birth(former.definition, Order(), "k-1")
        strange = replace(former.runner.birth(former.definition, Order(), None), name="of-another-program")
        await put(former, place, waiting_of(strange))
        await put(former, place, waiting_of(birth))
    saga_id = birth.claim.saga_id
    async with Program(urls, [("open_order", "orders", "pivot", [])]).open(lease=1.0) as latter:
        await latter.recorder.wait_for(SagaStarted, lambda event: event.saga_id == saga_id)
        assert (await latter.sagas.get(saga_id)).status is Status.RUNNING

        async def reported() -> bool:
            found = (await latter.sagas.verify(SagaSettings(lease=0.1))).contradictions
            waiting = [one.saga_id for one in found if one.kind is ContradictionKind.WAITING_START]
            return waiting == [strange.claim.saga_id]

        await until(reported, "the start that nobody moves is reported")
    async with Program(urls, PLACE_ORDER).open(lease=1.0) as former:
        await completed(former, saga_id)


async def test_starts_are_moved_also_if_the_journal_has_come_to_their_database(urls: Urls) -> None:
    async with Program(urls, LAST_AT_HOME, journal="points").open(lease=ALONE) as former:
        birth = former.runner.birth(former.definition, Order(), "k-1")
        await put(former, "orders", waiting_of(birth))
    async with Program(urls, LAST_AT_HOME).open() as latter:
        await completed(latter, birth.claim.saga_id)


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_a_parked_start_is_reported_from_a_database_without_sagas(urls: Urls, place: str) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=ALONE) as former:
        birth = former.runner.birth(former.definition, Order(), "k-1")
        outbox = await put(former, place, waiting_of(birth))
        await outbox.park(birth.claim.saga_id, "it is too old")
    latter = Program(urls, [("open_order", "orders", "pivot", [])])
    async with latter.connected():
        (found,) = (await latter.sagas.verify()).contradictions
        assert (found.kind, found.saga_id) == (ContradictionKind.PARKED_START, birth.claim.saga_id)


async def test_a_database_without_sagas_that_is_away_is_no_proof_that_it_has_no_start(urls: Urls) -> None:
    if urls["points"].startswith("sqlite"):
        pytest.skip("a file is not away")
    with Proxy.to(urls["points"]) as proxy:
        latter = Program(MigratedUrls({**urls, "points": proxy.url}), [("open_order", "orders", "pivot", [])])
        async with latter.connected():
            proxy.refuse()
            proxy.reset()
            with pytest.raises(DatabaseUnavailable, match="'points'"):
                await latter.sagas.verify()


@pytest.mark.parametrize("place", ["orders", "points"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_every_shape_completes_and_is_undone_without_a_fused_start(
    urls: Urls, shape: Any, place: str
) -> None:
    async def refuse(db: Any, ctx: StepContext) -> None:
        raise Refused("no lantern left")

    if place not in {database for _, database, *_ in shape} | {"orders"}:
        pytest.skip("no saga of this shape takes place there")
    async with Program(urls, shape).open() as program:
        async with transaction(program, place) as db:
            handle = await program.sagas.start(program.saga, Order(), tx=db)
        await completed(program, handle.id)
        assert await program.effects(handle.id) == {name: 1 for name, *_ in shape}
        program.on([name for name, _, kind, _ in shape if kind != "retriable"][-1], refuse)
        async with transaction(program, place) as db:
            handle = await program.sagas.start(program.saga, Order(), tx=db)
        with pytest.raises(Refused):
            await handle.result(30)
        assert await program.effects(handle.id) == {}
        assert (await program.sagas.get(handle.id)).status is Status.COMPENSATED
        assert not (await program.sagas.verify()).contradictions


async def test_an_owner_of_a_saga_born_by_itself_that_dies_is_followed_by_one_that_goes_on(urls: Urls) -> None:
    first, second = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    gate = Gate()
    first.on("reserve_stock", gate)
    async with first.open(lease=ALONE, drain=0.01):
        async with transaction(first, "orders") as db:
            handle = await first.sagas.start(first.saga, Order(), tx=db)
        await gate.reached()
    async with second.open(lease=1.0):
        await completed(second, handle.id)
        assert await second.effects(handle.id) == ALL_DONE


async def test_a_step_can_start_a_saga_with_its_own_commit(urls: Urls) -> None:
    async with Program(urls, LEDGER_PIVOT).open() as program:
        started: list[UUID] = []

        async def start_another(db: Any, ctx: StepContext) -> None:
            if not started:
                handle = await program.sagas.start(program.saga, Order(item="candle"), key="child", tx=db)
                started.append(handle.id)
                await program.hooks.get("then", _nothing)(db, ctx)

        program.on("take", start_another)
        await program.sagas.run(program.saga, Order(), timeout=30)
        await completed(program, started[0])


@pytest.fixture(params=["journal", "outbox"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> "Shop":
    return Shop(tmp_path, journal=request.param == "journal")


class Shop:
    """Two sagas in one database, with the journal or without: `order` starts `deliver` by a step's connection."""

    def __init__(self, directory: Path, *, journal: bool) -> None:
        self.stock, self.books = SqlDatabase("stock"), SqlDatabase("books")
        deliver, order = Saga("deliver", input=int), Saga("order", input=int)
        self.recorder, self.lent, self.fails = Recorder(), list[AsyncConnection](), False
        self.own_session = False  # that the step makes on its connection
        self.handles: list[SagaHandle[None]] = []

        @deliver.step(self.stock, kind="pivot")
        async def send(db: AsyncConnection, number: int, ctx: StepContext) -> None: ...

        @order.step(self.stock, kind="pivot")
        async def take(db: AsyncConnection, number: int, ctx: StepContext) -> None:
            self.lent.append(db)
            # Else a session of the step's own would begin the transaction, and it may not commit it.
            await db.exec_driver_sql("SELECT 1")
            tx = AsyncSession(db) if self.own_session else db
            self.handles = [await self.sagas.start(deliver, number, key="child", tx=tx) for _ in range(2)]
            if isinstance(tx, AsyncSession):
                await tx.commit()
            with pytest.raises(NotStarted, match="not committed yet"):
                await self.handles[1].result(5)
            if self.fails:
                raise Refused("there is none left")

        self.deliver, self.order, home = deliver, order, self.stock if journal else self.books
        self.sagas = Sagas(Databases(self.stock, self.books), deliver, order, journal=home)
        self._settings = on_sqlite(self.sagas, directory)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Sagas]:
        async with self.sagas.databases.open(self._settings):
            await migrate(self.sagas)
            async with self.sagas.open(SagaSettings(lease=ALONE), emit=self.recorder):
                yield self.sagas


@pytest.mark.parametrize("own_session", [False, True])
async def test_a_step_on_a_connection_starts_a_saga_with_its_own_commit(shop: Shop, own_session: bool) -> None:
    shop.own_session = own_session
    async with shop.open() as sagas:
        await sagas.run(shop.order, 1, timeout=30)
        first, twice = shop.handles
        assert (first.joined, twice.joined) == (False, True)
        finished = await shop.recorder.wait_for(SagaFinished, lambda event: event.saga_id == first.id)
        assert finished.status == "completed"  # and at once: no other round comes within the lease
        await twice.result(5)


async def test_a_step_on_a_connection_that_is_rolled_back_starts_nothing(shop: Shop) -> None:
    shop.fails = True
    async with shop.open() as sagas:
        with pytest.raises(Refused):
            await sagas.run(shop.order, 1, timeout=30)
        for handle in shop.handles:
            with pytest.raises(NotStarted, match="rolled back"):
                await handle.result(5)


async def test_what_is_no_transaction_of_a_session_or_a_step_is_refused(shop: Shop) -> None:
    async with shop.open() as sagas:
        await sagas.run(shop.order, 1, timeout=30)
        with pytest.raises(NotEnlisted, match="the step that this connection was lent to has ended"):
            await sagas.start(shop.deliver, 2, tx=shop.lent[0])
        async with shop.stock.writer() as db:
            with pytest.raises(NotEnlisted, match="give the session that it belongs to"):
                await sagas.start(shop.deliver, 2, tx=await db.connection())
            given: list[Any] = ["x", True, object(), db.sync_session, shop.stock]
            for tx in given:
                with pytest.raises(NotEnlisted, match=f"this is a {type(tx).__name__}: give"):
                    await sagas.start(shop.deliver, 2, tx=tx)
        with pytest.raises(NotEnlisted, match="bound to no database"):
            await sagas.start(shop.deliver, 2, tx=AsyncSession())


async def test_sessions_that_cannot_carry_a_start_are_refused(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open(lease=ALONE) as program:
        async with program.handles["orders"].reader() as db:
            with pytest.raises(NotEnlisted, match=r"only reads: take one from orders\.writer"):
                await program.sagas.start(program.saga, Order(), tx=db)
        async with program.handles["inventory"].writer() as db:
            if isinstance(db, MongoSession):
                with pytest.raises(NotEnlisted, match="no transaction; begin one"):
                    await program.sagas.start(program.saga, Order(), tx=db)
        engine = create_async_engine("sqlite+aiosqlite://")
        try:
            async with AsyncSession(engine) as foreign:
                with pytest.raises(NotEnlisted, match="no session of a database that takes part"):
                    await program.sagas.start(program.saga, Order(), tx=foreign)
        finally:
            await engine.dispose()
        async with program.handles["points"].writer() as db:
            assert isinstance(db, AsyncSession)
            await db.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            with pytest.raises(NotEnlisted, match="commits every statement"):
                await program.sagas.start(program.saga, Order(), tx=db)


async def _nothing(db: Any, ctx: StepContext) -> None:
    """Do nothing."""

"""Taps: they report to the scene what happens between an owner and its databases.

A tap replaces methods of single objects that only one owner uses: its nodes' dialects, its participants, its
journal. So production code needs no hooks. A work of a participant reports its commit where that is sent: in the
dialect's `seal` if COMMIT goes out with the last statement, else in SQLAlchemy's `do_commit`, or in the commit of
the MongoDB session. Every write of the journal by itself is one work.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial, wraps
from typing import Any
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.util.concurrency import await_

from polysaga.databases import Fault, MongoNode, SqlNode
from polysaga.databases.dialects.sending import Sealed
from polysaga.databases.dialects.sql import SEALED
from polysaga.sagas.journal.journal import Journal
from polysaga.sagas.participants.mongo import MongoParticipant
from polysaga.sagas.participants.sql import SqlParticipant
from polysaga.testing.crash_kit.disturbances import Stage
from polysaga.testing.crash_kit.driver_errors import (
    Disturbed,
    cut,
    driver_of,
    lost_connection,
    lost_mongo_commit,
    no_mongo_transaction,
)
from polysaga.testing.crash_kit.owners import OWNER, Owner
from polysaga.testing.crash_kit.run_context import RAN, SENT, WORK

_READS = {"load", "standings", "strangers"}
_CLAIMS = {"claim", "cancel"}
_CONDITIONAL = {"compensate", "go_forward", "park", "postpone", "note_progress", "finish", "renew"}
_WRITES = [
    name
    for name, _ in inspect.getmembers(Journal, inspect.iscoroutinefunction)
    if not name.startswith("_") and name not in _READS
]
_JOURNAL = "journal."
_TEXTS = 1000  # statements cached with the driver's placeholders


def tap_node(node: SqlNode | MongoNode, owner: Owner) -> None:
    """Report the commits on *node*, which only *owner* uses; call this before any other use of the node."""
    if isinstance(node, SqlNode):
        _SqlTap(node, owner)
    else:
        _MongoTap(node, owner)
    recognise = node.dialect.fault

    def fault(error: BaseException) -> Fault | None:
        cause = getattr(error, "orig", None) or error
        return cause.fault if isinstance(cause, Disturbed) else recognise(error)

    _replace(node.dialect, "fault", fault)
    if isinstance(node, SqlNode):
        # Every run assembles its own engine, from the same texts.
        _replace(node.dialect, "render", lru_cache(_TEXTS)(node.dialect.render))


def tap_handle(node: SqlNode | MongoNode) -> None:
    """Add to the story when a step opens its own session on *node*, the node of the program's handle."""
    if isinstance(node, SqlNode):
        event.listen(node.writer.sync_engine, "checkout", lambda *_: _tell_own_session(node.database))
        return
    start = node.client.start_session

    def start_session(*arguments: Any, **options: Any) -> Any:
        _tell_own_session(node.database)
        return start(*arguments, **options)

    _replace(node.client, "start_session", start_session)


def _tell_own_session(database: str) -> None:
    owner, work = OWNER.get(), WORK.get()
    if owner is not None and work is not None:
        owner.scene.tell(f"{work} opens a session of its own on {database}, beside the one that it was given")


def tap_participant(participant: Any, owner: Owner) -> None:
    """Report the begin and the end of each work of *participant*."""
    if isinstance(participant, SqlParticipant):
        _replace(participant, "transact", _work(owner, participant.transact))
    else:
        assert isinstance(participant, MongoParticipant)
        _replace(participant, "act", _work(owner, participant.act))
    undo, look = participant.undo, participant.look

    async def named_undo(entry: Any, work: Any, **options: Any) -> Any:
        name = f"undo {entry.step}"
        await owner.take_turn()
        WORK.set(name)
        owner.scene.touch(owner, participant.node.database)
        await owner.scene.reach(owner, Stage.BEGIN, name)
        return await undo(entry, work, **options)

    async def announced_look(*arguments: Any) -> Any:
        owner.scene.touch(owner, participant.node.database)
        return await _seen(owner, look(*arguments))

    _replace(participant, "undo", _work(owner, named_undo))
    _replace(participant, "look", announced_look)


def tap_journal(journal: Journal, owner: Owner) -> None:
    """Report every write of *journal* that is a transaction of its own."""
    for name in _WRITES:
        write = _write(owner, f"{_JOURNAL}{name}", journal.node.url.drivername, getattr(journal, name))
        _replace(journal, name, write)
    load = journal.load

    async def announced_load(saga_id: UUID) -> Any:
        return await _seen(owner, load(saga_id))

    _replace(journal, "load", announced_load)


async def _seen(owner: Owner, look: Awaitable[Any]) -> Any:
    """Return what *look* finds in the records after a failed work; until then that work keeps its turn."""
    try:
        return await look
    finally:
        owner.yield_turn_soon()


def _work(owner: Owner, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def reported(*arguments: Any, **options: Any) -> Any:
        RAN.set([])
        try:
            result = await method(*arguments, **options)
            name = WORK.get()
            if name is not None:
                await owner.scene.reach(owner, Stage.AFTER, name)
            owner.yield_turn()
            return result
        finally:
            WORK.set(None)
            RAN.set(None)
            SENT.set(None)

    return reported


def _write(
    owner: Owner, name: str, drivername: str, method: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def reported(*arguments: Any, **named: Any) -> Any:
        scene, driver = owner.scene, drivername.partition("+")[2]
        owner.yield_turn()  # a failed work keeps its turn until here
        before = WORK.set(name)
        try:
            await scene.reach(owner, Stage.BEFORE, name)
            happens = scene.reply(owner, name)
            if happens is False:
                raise lost_connection(driver)
            late = scene.claimant not in {None, owner} and not owner.beside
            result = await method(*arguments, **named)
            if result and name.removeprefix(_JOURNAL) in _CLAIMS and not owner.beside:
                scene.claimant = owner
            elif result and late and name.removeprefix(_JOURNAL) in _CONDITIONAL:
                scene.offences.append(f"{owner.name} wrote {name} although another owner had claimed the saga")
            if result in (False, set(), []):
                scene.tell(f"{owner.name} tries {name}, which changes no row")
            else:
                scene.committed(owner, name, ())
            if happens:
                raise lost_connection(driver)
            await scene.reach(owner, Stage.AT, name)
            return result
        finally:
            WORK.reset(before)

    return reported


class _SqlTap:
    """One owner's connections to one SQL database."""

    def __init__(self, node: SqlNode, owner: Owner) -> None:
        self._owner, self._dialect = owner, node.dialect
        engine = node.writer.sync_engine
        for lending in {engine, node.reserved.sync_engine}:
            event.listen(lending, "checkout", self._lend)
            event.listen(lending, "checkin", self._take_back)
        self._seal, self._do_commit = node.dialect.seal, engine.dialect.do_commit
        for execution in ("do_execute", "do_executemany", "do_execute_no_params"):
            event.listen(engine, execution, self._report_statement)
        _replace(node.dialect, "seal", self._report_seal)
        _replace(engine.dialect, "do_commit", self._report_commit)

    def _lend(self, adapted: Any, record: Any, proxy: Any) -> None:
        if self._owner.dead:
            raise Disturbed("this process is dead", Fault.DISCONNECTED)
        self._owner.connections[id(record)] = adapted.driver_connection
        self._owner.loans[id(record)] = proxy
        self._owner.cut_off.discard(id(adapted.driver_connection))  # ids are reused
        self._owner.endings[id(record)] = partial(self._end, adapted.driver_connection)

    def _take_back(self, adapted: Any, record: Any) -> None:
        # Keyed by the record: an invalidated connection is no longer passed here.
        self._owner.connections.pop(id(record), None)
        self._owner.loans.pop(id(record), None)
        self._owner.endings.pop(id(record), None)
        if adapted is not None and id(adapted.driver_connection) in self._owner.cut_off:
            record.invalidate()  # aiosqlite does not report a closed connection

    async def _end(self, connection: Any) -> None:
        self._cut(connection)

    def _report_statement(self, cursor: Any, statement: str, *_: Any) -> None:
        sent, name = SENT.get(), WORK.get()
        if sent is None or name is None:
            return
        if sent:
            await_(self._owner.scene.reach(self._owner, Stage.BETWEEN, name))
        sent.append(statement)

    async def _report_seal(self, connection: Any, writes: Any) -> Sealed:
        if not self._dialect.seals_with_commit(connection):
            return await self._seal(connection, writes)
        happens = await self._before(connection)
        try:
            sealed = await self._seal(connection, writes)
        except asyncio.CancelledError:
            self._owner.scene.uncertain(self._owner, RAN.get() or ())
            raise
        if sealed is Sealed.COMMITTED:
            await self._committed(connection, unanswered=happens)
        return sealed

    def _report_commit(self, proxy: Any) -> None:
        connection, name = proxy.dbapi_connection.driver_connection, WORK.get()
        if name is None or name.startswith(_JOURNAL) or SEALED in proxy.info:
            self._do_commit(proxy)
            return
        happens = await_(self._before(connection))
        try:
            self._do_commit(proxy)
        except asyncio.CancelledError:
            self._owner.scene.uncertain(self._owner, RAN.get() or ())
            raise
        await_(self._committed(connection, unanswered=happens))

    async def _before(self, connection: Any) -> bool | None:
        name = WORK.get() or "?"
        await self._owner.scene.reach(self._owner, Stage.BEFORE, name)
        happens = self._owner.scene.reply(self._owner, name)
        if happens is False:
            self._cut(connection)
        if id(connection) in self._owner.cut_off:
            raise self._lost(connection)
        return happens

    async def _committed(self, connection: Any, *, unanswered: bool | None) -> None:
        name = WORK.get() or "?"
        self._owner.scene.committed(self._owner, name, RAN.get() or ())
        if unanswered:
            self._cut(connection)
            raise self._lost(connection)
        await self._owner.scene.reach(self._owner, Stage.AT, name)

    def _cut(self, connection: Any) -> None:
        self._owner.cut_off.add(id(connection))
        cut(connection)

    def _lost(self, connection: Any) -> Exception:
        return lost_connection(driver_of(connection))


class _MongoTap:
    """One owner's client of one MongoDB deployment."""

    def __init__(self, node: MongoNode, owner: Owner) -> None:
        self._node, self._owner = node, owner
        self._start = node.client.start_session
        _replace(node.client, "start_session", self._start_session)

    def _start_session(self, *arguments: Any, **options: Any) -> Any:
        session: Any = self._start(*arguments, **options)
        commit = _MongoCommit(self._node, self._owner, session)
        # In a class of its own: the participant shadows the method while a step runs, and then removes the shadow.
        tapped = {"commit_transaction": lambda _: commit()}
        session.__class__ = type(type(session).__name__, (type(session),), tapped)
        return session


class _MongoCommit:
    """The commit of one session; the participant repeats it after a lost reply."""

    def __init__(self, node: MongoNode, owner: Owner, session: Any) -> None:
        self._node, self._owner, self._session = node, owner, session
        self._commit: Callable[[], Awaitable[None]] = session.commit_transaction
        self._forgotten = self._noted = False

    async def __call__(self) -> None:
        scene, name = self._owner.scene, WORK.get() or "?"
        if self._owner.dead:
            raise lost_mongo_commit()
        if self._forgotten:
            raise no_mongo_transaction()
        self._owner.endings[id(self)] = self._end
        try:
            await scene.reach(self._owner, Stage.BEFORE, name)
        finally:
            self._owner.endings.pop(id(self), None)
        if self._forgotten:
            raise no_mongo_transaction()
        happens = scene.reply(self._owner, name)
        if happens is False:
            await self._end()
            raise lost_mongo_commit()
        try:
            await self._commit()
        except asyncio.CancelledError:
            scene.uncertain(self._owner, RAN.get() or ())
            raise
        if not self._noted:
            self._noted = True
            scene.committed(self._owner, name, RAN.get() or ())
        if happens:
            raise lost_mongo_commit()
        await scene.reach(self._owner, Stage.AT, name)

    async def _end(self) -> None:
        self._forgotten = True
        await self._session.abort_transaction()


def _replace(one: Any, name: str, instead: Any) -> None:
    """Replace a method of *one* object, not of its class."""
    setattr(one, name, instead)

"""What all executions of a process share."""

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from polysaga.clock import Clock
from polysaga.config import SagaSettings
from polysaga.databases import Fault, MongoNode, Node, SqlNode
from polysaga.errors import ConfigurationError, SchemaMissing
from polysaga.events import BatchWritten, Emit
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.driving.gates import Gate
from polysaga.sagas.driving.timeouts import Timeouts
from polysaga.sagas.driving.tracing import Tracing
from polysaga.sagas.journal.group_commit import PATIENCE, GroupCommit
from polysaga.sagas.journal.journal import Journal, size_of_birth, size_of_ending
from polysaga.sagas.journal.tables import journal
from polysaga.sagas.participants import Participant
from polysaga.sagas.participants.mongo import MongoParticipant
from polysaga.sagas.participants.mysql import MySQLParticipant
from polysaga.sagas.participants.outboxes import Outbox
from polysaga.sagas.participants.postgres import PostgresParticipant
from polysaga.sagas.participants.reading import require_unique
from polysaga.sagas.participants.sql import SqlParticipant
from polysaga.sagas.participants.sqlite import SQLiteParticipant
from polysaga.sagas.protocol.rows import Birth, Ending
from polysaga.sagas.protocol.verdicts import passes

_QUEUE_OF_ONE = 4  # steps that may queue for the only writer of an SQLite file, so that it is never idle

_PARTICIPANTS: dict[str, type[SqlParticipant]] = {
    "postgresql": PostgresParticipant,
    "mysql": MySQLParticipant,
    "sqlite": SQLiteParticipant,
}


@dataclass(frozen=True, slots=True)
class Engine:
    """The journal, the participants and the batches that an execution works with."""

    journal: Journal
    home_participant: SqlParticipant  # the journal's own database
    participants: Mapping[str, Participant]
    starts: GroupCommit[Birth, None]
    finishes: GroupCommit[Ending, bool]
    settings: SagaSettings
    clock: Clock
    emit: Emit
    timeouts: Timeouts
    gates: Mapping[str, Gate]  # to the participants' databases
    process: str  # the name of this process among those that share the journal
    tracing: Tracing | None = None

    @property
    def outboxes(self) -> Mapping[str, Outbox]:
        """The outboxes by database; starts in transactions of the journal's own are rows of the journal."""
        home = self.journal.node.database
        return {name: one.outbox for name, one in self.participants.items() if name != home}


def assemble(
    nodes: Mapping[str, Node],
    journal_in: str,
    definitions: Iterable[Definition],
    settings: SagaSettings,
    *,
    emit: Emit,
    clock: Clock,
    patience: float = PATIENCE,
) -> Engine:
    """Return the engine of one owner: *nodes* are the primaries of the participants and of *journal_in*.

    *patience*: seconds that a finish without a waiting caller may wait for others to share its commit.
    """
    node = journal_node(nodes[journal_in])
    journal = Journal(node, [definition.fingerprint for definition in definitions], lease=settings.lease)
    home = _PARTICIPANTS[node.dialect.name](node)
    participants: dict[str, Participant] = {journal_in: home}
    for name, other in nodes.items():
        if name != journal_in:
            participants[name] = _participant(other, clock)

    async def insert(births: Sequence[Birth]) -> Sequence[None]:
        began = clock.monotonic()
        await journal.insert(births)
        emit(BatchWritten("starts", len(births), clock.monotonic() - began))
        return [None] * len(births)

    async def finish(endings: Sequence[Ending]) -> Sequence[bool]:
        began = clock.monotonic()
        changed = await journal.finish(endings)
        emit(BatchWritten("finishes", len(endings), clock.monotonic() - began))
        return [ending.claim.saga_id in changed for ending in endings]

    def shared(error: BaseException) -> bool:
        return passes(error, home.fault(error))

    starts = GroupCommit(insert, size=size_of_birth, timeout=settings.lease, shared=shared)
    finishes = GroupCommit(finish, size=size_of_ending, timeout=settings.lease, patience=patience, shared=shared)
    gates = {name: _gate(other, clock) for name, other in nodes.items()}
    return Engine(
        journal, home, participants, starts, finishes, settings, clock, emit, Timeouts(), gates, process_name()
    )


def process_name() -> str:
    """Return host and process id, such as web-1:4121."""
    return f"{socket.gethostname()}:{os.getpid()}"


def journal_node(node: Node) -> SqlNode:
    """Return *node* as the journal's; raise `ConfigurationError` if it cannot be that."""
    if not isinstance(node, SqlNode):
        raise ConfigurationError(
            f"the journal is kept in an SQL database; '{node.database}' is MongoDB: choose another one"
        )
    return node


async def check_tables(engine: Engine) -> None:
    """Raise `SchemaMissing` if a journal or ledger table is not there, or has lost its key.

    Raise `ConfigurationError` if the clock of this process is so far behind that ledgers would refuse its rows.
    """
    node = engine.journal.node
    try:
        await engine.journal.load(UUID(int=0))
        async with node.single.connect() as connection:
            await require_unique(node, connection, journal, "journal")
    except DBAPIError as error:
        if engine.home_participant.fault(error) is Fault.SCHEMA_MISSING:
            raise SchemaMissing(node.database, "journal") from error
        raise
    for participant in engine.participants.values():
        await participant.check(engine.clock.now())


def _gate(node: Node, clock: Clock) -> Gate:
    """Return the gate for steps on *node*; on SQLite they queue behind it for the only writer."""
    pool = node.settings.pool
    single = isinstance(node, SqlNode) and node.dialect.single_writer
    connections = _QUEUE_OF_ONE if single else pool.size + pool.max_overflow
    return Gate(node.database, connections, clock, single_writer=single)


def _participant(node: Node, clock: Clock) -> Participant:
    if isinstance(node, MongoNode):
        return MongoParticipant(node, clock)
    return _PARTICIPANTS[node.dialect.name](node)

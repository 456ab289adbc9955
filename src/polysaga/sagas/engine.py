"""What all executions of a process share."""

from collections.abc import Mapping
from dataclasses import dataclass

from polysaga.clock import Clock
from polysaga.config import SagaSettings
from polysaga.events import Emit
from polysaga.sagas.batches import GroupCommit
from polysaga.sagas.deadlines import Deadlines
from polysaga.sagas.gates import Gate
from polysaga.sagas.journal import Birth, Ending, Journal
from polysaga.sagas.participants import Participant
from polysaga.sagas.participants.sql import SqlParticipant


@dataclass(frozen=True, slots=True)
class Engine:
    """The journal, the participants and the batches that an execution works with."""

    journal: Journal
    home: SqlParticipant  # the journal's own database
    participants: Mapping[str, Participant]
    starts: GroupCommit[Birth, None]
    finishes: GroupCommit[Ending, bool]
    settings: SagaSettings
    clock: Clock
    emit: Emit
    deadlines: Deadlines
    gates: Mapping[str, Gate]  # to the participants' databases

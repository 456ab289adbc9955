"""The journal's rows, and what the engine writes to them, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from uuid import UUID

from polysaga.frozen import frozen
from polysaga.sagas.protocol.reasons import HistoryEntry, Reason
from polysaga.sagas.protocol.states import Mark, Status

NOBODY = UUID(int=0)  # the owner of a saga that was put aside


@frozen
class Claim:
    """The right to drive one saga until another process raises the epoch."""

    saga_id: UUID
    epoch: int
    owner: UUID


@frozen
class Row:
    """One saga as the journal stores it."""

    claim: Claim
    name: str
    fingerprint: str
    status: Status
    input: str
    input_hash: str
    results: Mapping[str, str]  # JSON text by step: of the steps whose record is this row
    error: Reason | None
    history: Sequence[HistoryEntry]
    expiries: int = 0
    progress: int = 0
    remaining: float | None = None  # seconds to the deadline, by the database's clock when it was read
    age: float = field(default=0.0, compare=False)  # seconds since the start, by the same clock
    trace: str | None = None

    @property
    def is_resolved(self) -> bool:
        """Whether a person has declared how the saga ended."""
        return self.error is not None and self.error.resolved is not None


@frozen
class Standing:
    """How far a saga is: what another process needs to know of its row."""

    claim: Claim
    name: str
    fingerprint: str
    status: Status
    results: Mapping[str, str]  # as in `Row`; empty until the saga is decided
    error: Reason | None


@frozen
class Birth:
    """The contents of a new row."""

    claim: Claim
    name: str
    version: int
    fingerprint: str
    key: str | None
    input: str
    input_hash: str
    status: Status = Status.RUNNING
    results: Mapping[str, str] = field(default_factory=dict)
    error: Reason | None = None
    history: Sequence[HistoryEntry] = ()
    deadline: float | None = None  # seconds after the birth
    trace: str | None = None  # the saga's trace context

    def with_first_step(
        self, status: Status, results: Mapping[str, str], history: Sequence[HistoryEntry]
    ) -> "Birth":
        """Return the birth of a saga whose first step is done."""
        return Birth(  # `dataclasses.replace` takes ten times as long
            self.claim,
            self.name,
            self.version,
            self.fingerprint,
            self.key,
            self.input,
            self.input_hash,
            status,
            results,
            self.error,
            history,
            self.deadline,
            self.trace,
        )


@frozen
class Ending:
    """The contents of a finishing write; `expected` is the status it requires."""

    claim: Claim
    expected: Status
    status: Status
    results: Mapping[str, str]
    history: Sequence[HistoryEntry]


@frozen
class LedgerRow:
    """One row as it was found."""

    state: Mark
    result: str | None

"""The bodies of requests and answers, from which the document of the API is made."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from polysaga.dashboard.filters import CURSOR, LONGEST
from polysaga.sagas import Attempt, Cause, LateGroup, Option, Planned, Status, StepFacts, Tenure

Text = Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"^[^\x00]+$")]
Key = Annotated[Text, Field(max_length=255)]
# The \s of JSON Schema lacks what Python takes for space besides.
Words = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00]*[^\s\x00\x1c-\x1f\x85][^\x00]*$")]


def _written(value: object) -> object:
    # A number would be seconds since 1970, and the document says that moments are written out.
    if isinstance(value, str) and "T" not in value.upper():
        raise PydanticCustomError("moment", "write a moment as 2026-11-23T14:32:07Z")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("moment", "write a moment that is in the years 1 to 9999 of UTC") from None


def _whole(value: object) -> object:
    # A number without a fraction is an integer in JSON, also as 2.0; a text or true is none.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Moment = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_in_utc)]
Cursor = Annotated[str, Field(max_length=80, pattern=CURSOR)]


class ApiProblem(BaseModel):
    """A refusal (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ListedSaga(BaseModel):
    """One saga of a list."""

    id: UUID
    name: str
    version: int
    known: bool = Field(description="this process has the definition")
    key: str | None
    status: Status
    parked_from: Status | None
    step: str | None = Field(description="the step that the reason is about")
    retried: str | None = Field(description="the step whose last attempt failed")
    reason: str | None
    going_on: str
    next: str = Field(description="what happens next and when")
    epoch: int
    created_at: datetime
    wake_at: datetime | None
    deadline: datetime | None
    parked_at: datetime | None
    finished_at: datetime | None


class SagaList(BaseModel):
    """Sagas, the newest first; `next` is the `after` of the following page."""

    sagas: list[ListedSaga]
    next: str | None
    searched_to: datetime | None = Field(description="how far back a search has come that found too little")


class UnfinishedNow(BaseModel):
    """What is unfinished now."""

    at: datetime
    unfinished: dict[Status, int]
    waiting: int = Field(description="put aside until they wake")
    crashing: int = Field(description="while they were driven, three processes in a row ended or hung")
    late: list[LateGroup]
    causes: list[Cause]
    causes_complete: bool
    oldest: list[ListedSaga]


class LedgerRecord(BaseModel):
    """What one database says of one step."""

    step: str
    state: str
    result: Any


class LedgerAnswer(BaseModel):
    """What one database says of a saga."""

    database: str
    is_journal: bool
    rows: list[LedgerRecord]
    problem: str | None = Field(description="why it could not be asked")


class AuditItem(BaseModel):
    """What a person did."""

    at: datetime
    by: str
    action: str
    why: str
    saga_id: UUID | None
    saga: str | None
    batch: UUID | None
    count: int
    details: Any


class AuditList(BaseModel):
    """What people did, the newest first."""

    lines: list[AuditItem]
    next: str | None


class ContradictionItem(BaseModel):
    """One fact on which journal and ledgers disagree."""

    kind: str
    step: str | None
    database: str | None
    detail: str


class SagaExamined(ListedSaga):
    """Everything about one saga."""

    input: Any
    facts: Any = Field(description="of a refusal")
    traceback: str | None
    late: bool
    alike: int = Field(description="other parked sagas with the same cause")
    removed_at: datetime | None
    steps: list[StepFacts]
    history: list[Attempt]
    owners: list[Tenure]
    ledgers: list[LedgerAnswer]
    contradictions: list[ContradictionItem]
    moves: list[Planned]
    options: list[Option]
    audit: list[AuditItem]


class NodeReport(BaseModel):
    """One node of a database; lengths of time in seconds."""

    url: str
    role: str
    failure: str | None
    lag: float | None
    latency: float | None
    position: str
    breaker: str
    in_use: int | None
    pool_size: int | None
    waiting: int | None


class DatabaseReport(BaseModel):
    """One database as this process sees it."""

    name: str
    engine: str
    journal: bool
    state: str
    nodes: list[NodeReport]
    routed: list[tuple[str, str, int]] = Field(description="node, reason and sessions of the last 15 minutes")


class SagaOrder(BaseModel):
    """What a person orders for one saga."""

    model_config = ConfigDict(extra="forbid")  # a mistyped dry_run must not act

    why: Words = Field(description="kept in the audit trail")
    dry_run: bool = Field(default=False, strict=True, description="only tell what would happen")


class SkipOrder(SagaOrder):
    """One step that was done, or undone, by hand."""

    step: Text
    result: Any = Field(default=None, description="what the step would have returned")


class ResolveOrder(SagaOrder):
    """How a person says that a saga ended."""

    outcome: Literal["completed", "compensated"]


class Many(BaseModel):
    """What a person orders for many sagas; *count* must be their number."""

    model_config = ConfigDict(extra="forbid")

    why: Words = Field(description="kept in the audit trail")
    ids: list[UUID] = Field(min_length=1, max_length=100_000)
    count: Annotated[int, Field(strict=True, ge=1), BeforeValidator(_whole)]


class ManyMoved(Many):
    """Retry or compensate them."""

    action: Literal["retry", "compensate"]


class ManySkipped(Many):
    """Skip one step of each."""

    action: Literal["skip"]
    step: Text
    result: Any = Field(default=None, description="what the step would have returned")


class ManyResolved(Many):
    """End them by a person's word."""

    action: Literal["resolve"]
    outcome: Literal["completed", "compensated"]


class OrderOutcome(BaseModel):
    """What an order did to one saga, or would do."""

    before: Status
    after: Status | None
    done: bool


class BatchBegun(BaseModel):
    """A repair of many sagas has begun."""

    batch: UUID

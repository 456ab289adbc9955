"""What must hold after every run, whatever disturbed it. Each finding is one sentence."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from polysaga.errors import NeedsAttention, OutcomePending, Refused, SagaFailed, SagaUndone, TooLate
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.testing.crash_kit.disturbances import Case, Disconnect, Kill
from polysaga.testing.crash_kit.records import Records


@dataclass(frozen=True, slots=True)
class Run:
    """One run at rest, as an invariant sees it; *input* is what the saga was started with.

    *beside* is the run of the other saga in cases with two sagas; the invariant is called for each.
    """

    saga_id: UUID
    status: Status
    input: Any
    case: str
    beside: "Run | None" = None


@dataclass(frozen=True, slots=True)
class Told:
    """What one caller received: an output or an error."""

    output: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Effects:
    """How often steps took effect, less how often they were undone; *maybe*: by commits with unseen results."""

    certain: Mapping[str, int]
    maybe: Sequence[tuple[str, int]]


def findings(
    definition: Definition, case: Case, records: Records, effects: Effects, told: list[Told]
) -> Iterator[str]:
    """Yield everything that breaks the promise."""
    if records.row is None:
        yield "the saga was never started, however often its client asked"
        return
    status = records.row.status
    if not status.final:
        yield f"the saga does not come to rest: it is {status.value}"
        return
    yield from _wrong_effects(definition, status, effects)
    yield from _wrong_records(definition, status, records)
    yield from _broken_words(status, told)
    if not case.overdue and all(isinstance(act, Kill | Disconnect) for act in case.acts):
        expected = Status.COMPENSATED if case.plot.refused else Status.COMPLETED
        if status is not expected:
            yield f"the saga is {status.value}; a crash or a lost reply alone must leave it {expected.value}"


def _wrong_effects(definition: Definition, status: Status, effects: Effects) -> Iterator[str]:
    due = 1 if status is Status.COMPLETED else 0
    for step in definition.steps:
        if step.database is None:
            continue  # a call to the outside world may happen more than once
        happened = effects.certain.get(step.name, 0)
        maybe = [sign for name, sign in effects.maybe if name == step.name]
        least = happened + sum(sign for sign in maybe if sign < 0)
        most = happened + sum(sign for sign in maybe if sign > 0)
        if not least <= due <= most:
            yield f"the saga is {status.value}, but '{step.name}' took effect {happened} times instead of {due}"


def _wrong_records(definition: Definition, status: Status, records: Records) -> Iterator[str]:
    for step in definition.steps:
        state = records.state(step.name)
        if status is Status.COMPLETED and state is not Mark.DONE:
            yield f"the saga is completed, but the record of '{step.name}' says {state}"
        if status is Status.COMPENSATED and state is Mark.DONE:
            yield f"the saga is compensated, but the record of '{step.name}' says {state}"


def _broken_words(status: Status, told: list[Told]) -> Iterator[str]:
    for one in told:
        match one.error:
            case None if status is not Status.COMPLETED:
                yield f"a caller was told that the saga is decided, and it is {status.value}"
            case SagaUndone() | SagaFailed() | Refused() if status is not Status.COMPENSATED:
                yield f"a caller was told {type(one.error).__name__}, and the saga is {status.value}"
            case TooLate() if status is not Status.COMPLETED:
                yield f"a caller was told that it is too late to cancel, and the saga is {status.value}"
            case None | SagaUndone() | SagaFailed() | Refused() | NeedsAttention() | OutcomePending():
                pass

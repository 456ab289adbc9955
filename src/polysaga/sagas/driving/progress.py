"""What this process knows about one saga. It may be lost at any moment: the databases know the same.

Input and results are kept as JSON, as in the databases, and decoded anew for each reader. So every attempt of a
step sees what a takeover would see, whatever JSON makes of a value, and whatever other code does to the object
that it got (`test_a_takeover_sees_what_the_first_run_saw`). Decoding takes microseconds.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.payloads import decode, encode
from polysaga.sagas.definition.step import AnyStep, StepContext
from polysaga.sagas.driving.user_code import awaited
from polysaga.sagas.participants import Entry, LedgerRow, UndoWork, Work
from polysaga.sagas.protocol.decisions import Known, fused_first, fused_in
from polysaga.sagas.protocol.outcomes import Failure
from polysaga.sagas.protocol.reasons import Attempt, Reason
from polysaga.sagas.protocol.rows import Birth, Claim, Ending
from polysaga.sagas.protocol.states import Mark, Status

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Progress:
    """The state of one saga in the hands of its owner."""

    def __init__(self, definition: Definition, birth: Birth, *, home: str, limit: int) -> None:
        self.definition, self.birth = definition, birth
        self.claim: Claim = birth.claim
        self.saga_id: UUID = birth.claim.saga_id
        self.status: Status = birth.status
        self.failure: Failure | None = None
        self.reason: Reason | None = birth.error  # the failure as the journal keeps it
        self.fused = fused_first(definition, home)
        self.alone = False  # the row was born without the fused first step
        self.home = home  # the name of the journal's database
        self.marks: dict[str, Mark] = {}
        self.renewed_at = 0.0  # the clock's reading from before the claim was made or last prolonged
        self.not_after: datetime = _LONG_AGO  # ledgers refuse this owner's rows from then on
        self._texts: dict[str, str] = {}  # results as JSON
        self._limit = limit

    @property
    def known(self) -> Known:
        """What `decide` looks at."""
        return Known(self.status, self.marks, failed=self.failure is not None, alone=self.alone)

    @property
    def decision_known(self) -> bool:
        """Return whether the deciding step is known to be done."""
        decision = self.definition.decision
        return decision is not None and self.marks.get(decision.name) is Mark.DONE

    @property
    def undoes_fused(self) -> bool:
        """Return whether the final status must undo the fused first step; a person may have undone it by hand."""
        if self.fused is None or self.fused not in self.definition.undoable:
            return False
        return self.marks.get(self.fused) is not Mark.COMPENSATED

    @property
    def input(self) -> Any:
        """What the saga was started with; raises `PayloadUnreadable` if it does not fit its type any more."""
        return decode(self.definition.saga.input, self.birth.input, what=f"the input of saga {self.saga_id}")

    @property
    def output(self) -> Any:
        """What the deciding step returned; None if several last steps decide together."""
        decision = self.definition.decision
        return None if decision is None else self._result(decision, self._texts[decision.name])

    def learn(self, step: str, text: str) -> None:
        """Note that *step* is done, with its result as JSON."""
        self.remember(step, text)
        self.marks[step] = Mark.DONE

    def remember(self, step: str, text: str) -> None:
        """Keep the result of *step*; raise `PayloadUnreadable` if it cannot be decoded."""
        self._result(self.definition.by_name[step], text)
        self._texts[step] = text

    def take_in(self, rows: Mapping[str, LedgerRow]) -> None:
        """Note what records of steps say; while compensating, a step that is done is still to be undone."""
        for name, row in rows.items():
            call = self.definition.by_name[name].database is None
            if row.result is not None or (row.state is not Mark.BLOCKED and not call):
                self.remember(name, row.result or "null")
            # A blocked call may have happened all the same, so its compensation must run.
            pending = row.state is Mark.DONE or (row.state is Mark.BLOCKED and call)
            if not pending or self.status is not Status.COMPENSATING:
                self.marks[name] = row.state

    def did(self, step: AnyStep, text: str) -> None:
        """Note that this process has just done *step*."""
        self._texts[step.name] = text
        self.marks[step.name] = Mark.DONE

    def adopt(self, results: Collection[str]) -> None:
        """Note from the found row whether the first step was fused with the start."""
        self.fused = fused_in(self.definition, self.home, results)
        self.alone = self.fused is None

    def only_done(self) -> None:
        """Forget everything but the steps that are done."""
        self.marks = {name: mark for name, mark in self.marks.items() if mark is Mark.DONE}

    def ends_with(self, step: AnyStep) -> bool:
        """Return whether only *step* is missing for the saga to be completed."""
        return all(self.marks.get(other.name) is Mark.DONE for other in self.definition.steps if other is not step)

    def text(self, step: str) -> str:
        """Return the result of *step* as JSON."""
        return self._texts[step]

    def journaled(self, **more: str) -> Mapping[str, str]:
        """Return the results that the journal keeps: of the fused first step and of the decision."""
        decision = self.definition.decision
        names = {self.fused, decision.name if decision else None}
        return {**{name: text for name, text in self._texts.items() if name in names}, **more}

    def ending(self, expected: Status, status: Status, history: Sequence[Attempt], **results: str) -> Ending:
        """Return the finishing write from *expected* to *status*."""
        return Ending(self.claim, expected, status, self.journaled(**results), history)

    def entry(self, step: AnyStep) -> Entry:
        """Return what the ledger row of *step* says."""
        return Entry(self.saga_id, step.name, self.claim.epoch, self.not_after)

    def work(self, step: AnyStep, attempt: int) -> Work:
        """Return the user's step, ready for a session."""
        context = self._context(step, attempt)

        async def work(session: Any) -> str:
            value = await awaited(step.action(session, self.input, context))
            return encode(step.result, value, what=f"the result of step '{step.name}'", limit=self._limit)

        return work

    def undo_work(self, step: AnyStep, attempt: int) -> UndoWork | None:
        """Return the user's compensation, ready for a session and a recorded result; None for a decision."""
        undo: Callable[..., Awaitable[None]] | None = step.undo
        if undo is None or step is self.definition.decision:
            return None
        context = self._context(step, attempt)

        async def work(session: Any, result: str | None) -> None:
            done = None if result is None else self._result(step, result)
            await awaited(undo(session, self.input, done, context))

        return work

    def place(self, step: AnyStep) -> str:
        """Return the name of the database that has the record of *step*."""
        return step.database_name or self.home

    def _context(self, step: AnyStep, attempt: int) -> StepContext:
        earlier = self.definition.ancestors[step.name]
        known = {name: text for name, text in self._texts.items() if name in earlier}
        return StepContext(self.saga_id, step.name, attempt, _Results(known, self._result_of))

    def _result_of(self, step: str, text: str) -> Any:
        return self._result(self.definition.by_name[step], text)

    def _result(self, step: AnyStep, text: str) -> Any:
        return decode(step.result, text, what=f"the result of step '{step.name}'")


class _Results(Mapping[str, Any]):
    """Results by step, each read when it is asked for."""

    def __init__(self, texts: Mapping[str, str], read: Callable[[str, str], Any]) -> None:
        self._texts, self._read = texts, read

    def __getitem__(self, step: str) -> Any:
        return self._read(step, self._texts[step])

    def __contains__(self, step: object) -> bool:
        return step in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

"""The input and the results of one saga in this process, as JSON.

They are decoded anew for each reader, unless they are immutable. So every attempt of a step sees what a takeover
would see, whatever JSON makes of a value, and whatever other code does to the object that it got
(`test_a_takeover_sees_what_the_first_run_saw`).
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.payloads import decode, encoded, is_immutable
from polysaga.sagas.definition.step import AnyStep, StepContext
from polysaga.sagas.driving.user_code import awaited
from polysaga.sagas.participants import UndoWork, Work
from polysaga.sagas.protocol.known import Born, Did, Fact, FoundDecided, Sighting, Surveyed
from polysaga.sagas.protocol.rows import Birth, LedgerRow
from polysaga.sagas.protocol.states import Mark


class SagaValues:
    """Input and results of one saga, and the user's functions on them."""

    def __init__(self, definition: Definition, birth: Birth, *, limit: int) -> None:
        self._definition, self._input, self._limit = definition, birth.input, limit
        self._saga_id = birth.claim.saga_id
        self._texts: dict[str, str] = {}
        self._immutable: dict[tuple[str | None, str], Any] = {}  # by step, None for the input, and text
        self._unread: dict[str | None, tuple[str, Any]] = {}  # texts with their values, each for its first reader

    @property
    def input(self) -> Any:
        """What the saga was started with; raises `PayloadUnreadable` if it does not fit its type any more."""
        return self._read(None, self._input)

    @property
    def output(self) -> Any:
        """What the deciding step returned; None if several last steps decide together."""
        decision = self._definition.decision
        return None if decision is None else self._read(decision.name, self._texts[decision.name])

    def expect(self, value: Any) -> None:
        """Let the first reader of the input get *value*, which was decoded and not given to any other code."""
        self._unread[None] = self._input, value

    def keep(self, fact: Fact) -> None:
        """Keep the results that *fact* brings."""
        match fact:
            case Did(step, result, _):
                self._texts[step] = result
            case Born(_, _, results) | FoundDecided(_, results):
                self._texts.update(results)
            case Surveyed(records):
                self._texts.update(self.results_in(records))

    def results_in(self, records: Mapping[str, LedgerRow]) -> dict[str, str]:
        """Return the results in *records*; a call that is blocked and has none may have no result at all."""
        return {
            name: record.result or "null"
            for name, record in records.items()
            if record.result is not None
            or (record.state is not Mark.BLOCKED and self._definition.by_name[name].database is not None)
        }

    def check(self, results: Mapping[str, str]) -> Mapping[str, str]:
        """Return *results*, found in a database; raise `PayloadUnreadable` if one cannot be decoded."""
        for step, text in results.items():
            self._read(step, text)
        return results

    def seen(self, step: str, record: LedgerRow | None) -> Sighting:
        """Return what *record* says of *step*; raise `PayloadUnreadable` if its result cannot be decoded."""
        if record is None:
            return Sighting(None)
        return Sighting(record.state, self.did(step, record) if record.state is Mark.DONE else None)

    def did(self, step: str, record: LedgerRow) -> Did:
        """Return what *record* says of *step*, which is done."""
        text = record.result or "null"
        self._read(step, text)
        return Did(step, text)

    def text(self, step: str) -> str:
        """Return the result of *step* as JSON."""
        return self._texts[step]

    def texts_of(self, steps: "frozenset[str | None]") -> dict[str, str]:
        """Return the known results of *steps* as JSON."""
        return {name: text for name, text in self._texts.items() if name in steps}

    def work(self, step: AnyStep, attempt: int) -> Work:
        """Return the user's step, ready for a session."""
        context = self._context(step, attempt)

        async def work(session: Any) -> str:
            value = await awaited(step.action(session, self.input, context))
            what = f"the result of step '{step.name}'"
            text, read = encoded(step.result, value, what=what, limit=self._limit)
            if step is self._definition.decision:
                self._unread[step.name] = text, read  # for the caller, in all likelihood
            return text

        return work

    def undo_work(self, step: AnyStep, attempt: int) -> UndoWork | None:
        """Return the user's compensation, ready for a session and a recorded result; None for a decision."""
        undo: Callable[..., Awaitable[None]] | None = step.undo
        if undo is None or step is self._definition.decision:
            return None
        context = self._context(step, attempt)

        async def work(session: Any, result: str | None) -> None:
            done = None if result is None else self._read(step.name, result)
            await awaited(undo(session, self.input, done, context))

        return work

    def _context(self, step: AnyStep, attempt: int) -> StepContext:
        earlier = self._definition.ancestors[step.name]
        known = {name: text for name, text in self._texts.items() if name in earlier}
        return StepContext(self._saga_id, step.name, attempt, _Results(known, self._read))

    def _read(self, step: str | None, text: str) -> Any:
        """Return the value of *text*: one object for all readers if it is immutable."""
        found = self._immutable.get((step, text), self)
        if found is not self:
            return found
        unread, value = self._unread.pop(step, (None, None))
        if unread == text:
            pass
        elif step is None:
            value = decode(self._definition.saga.input, text, what=f"the input of saga {self._saga_id}")
        else:
            value = decode(self._definition.by_name[step].result, text, what=f"the result of step '{step}'")
        if is_immutable(value):
            self._immutable[step, text] = value
        return value


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

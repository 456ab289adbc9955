"""One repair of one saga: ledgers first, then the journal with the audit trail."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import ValidationError

from polysaga.databases import Fault
from polysaga.errors import (
    DatabaseUnavailable,
    DefinitionError,
    PayloadError,
    PolysagaError,
    TooLate,
    UnknownVersion,
    WrongStatus,
)
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.identity import id_from_time
from polysaga.sagas.definition.payloads import encode
from polysaga.sagas.definition.retries import Retry
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.attempts import Attempts
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.journal.claims import PAUSE
from polysaga.sagas.participants import Entry, Participant
from polysaga.sagas.participants.fence import FENCE
from polysaga.sagas.participants.reading import explaining
from polysaga.sagas.protocol.decisions import fused_in, pivot_elsewhere
from polysaga.sagas.protocol.interrupts import OutOfReach
from polysaga.sagas.protocol.reasons import Reason, Resolution
from polysaga.sagas.protocol.repair_rules import RepairAction, RepairOrder, direction, refusal_of_skip
from polysaga.sagas.protocol.rows import NOBODY, Claim, LedgerRow, Row
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.sagas.protocol.verdicts import Verdict
from polysaga.texts import said

T = TypeVar("T")

_PAST = {
    RepairAction.RETRY: "retried",
    RepairAction.SKIP: "skipped",
    RepairAction.COMPENSATE: "compensated",
    RepairAction.RESOLVE: "resolved",
}
_PATIENCE = 15.0  # seconds for a participant to take a row
_AGAIN, _ONCE = Retry(within=None), Retry(within=0.01)


class SagaRepair:
    """One repair of one saga as it was found."""

    def __init__(
        self,
        engine: Engine,
        definition: Definition | None,
        row: Row,
        order: RepairOrder,
        records: Mapping[str, LedgerRow] | None = None,
    ) -> None:
        """*records*: what the ledgers said just now, for a check that asks them no more."""
        self._engine, self._known, self._row, self._order = engine, definition, row, order
        self._records = records
        self._results, self._reason = dict(row.results), row.error or Reason()
        self._going = direction(row)
        self._owner = uuid4()
        self._not_after = engine.clock.now() + FENCE  # before the claim: this process may be frozen at any time
        self._seen: Mapping[str, LedgerRow] = {}  # what the ledgers said when the person decided
        self._home = engine.journal.node.database
        self._fused = None if definition is None else fused_in(definition, self._home, row.results)

    async def check(self) -> None:
        """Raise if the order cannot be carried out on this saga's steps; writes nothing."""
        match self._order.action:
            case RepairAction.SKIP:
                await self._check_skip()
            case RepairAction.RESOLVE:
                await self._check_resolve()
            case RepairAction.COMPENSATE:
                await self._check_compensate()

    async def carry_out(self, after: Status) -> bool:
        """Write the ledgers, then the journal with the audit trail; False if the saga moved meanwhile."""
        row, order = self._row, self._order
        claim = row.claim
        if order.action in {RepairAction.SKIP, RepairAction.RESOLVE}:
            claim = Claim(claim.saga_id, claim.epoch + 1, self._owner)
            if not await self._engine.journal.take_for_person(row.claim, row.status, self._owner):
                return False
            try:
                await (self._skip(claim) if order.action is RepairAction.SKIP else self._resolve(claim, after))
            except PolysagaError:
                if row.status is not Status.NEEDS_ATTENTION:
                    await self._engine.journal.postpone(claim, PAUSE, row.history)
                raise
        self._reason = replace(self._reason, parked=None)
        if after in {Status.COMPENSATING, Status.COMPENSATED} and self._reason.kind is None:
            message = f"{_PAST[order.action]} by {order.by}: {order.why}"
            self._reason = replace(self._reason, kind=Verdict.CANCELLED.value, message=message)
        if after.final:
            self._reason = replace(self._reason, resolved=Resolution(order.by, order.why))
        return await self._engine.journal.repair(
            claim,
            row.status,
            after,
            results=self._results,
            error=None if self._reason == Reason() else self._reason,
            audit={
                "id": id_from_time(self._engine.clock.now()),
                "actor": order.by,
                "action": order.action.value,
                "why": order.why,
                "details": self._details(after, claim.epoch + 1),
            },
        )

    def _details(self, after: Status, epoch: int) -> str:
        order, row = self._order, self._row
        asked: dict[str, Any] = {}
        if order.action is RepairAction.SKIP:
            result = None if self._going is Status.COMPENSATING else self._text()
            asked = {"step": order.step, "result": result}
        if order.action is RepairAction.RESOLVE:
            asked = {"outcome": after.value}
        before = {
            "status": row.status.value,
            "epoch": row.claim.epoch,
            "error": None if row.error is None else row.error.to_json(),
        }
        now = {"status": after.value, "epoch": epoch, "error": self._reason.to_json() or None}
        batch = {} if order.batch is None else {"batch": str(order.batch), "batch_size": order.batch_size}
        return json.dumps({"asked": asked, "before": before, "after": now, **batch})

    async def _check_skip(self) -> None:
        definition, step = self._definition, self._step
        if step is definition.decision:
            raise self._wrong("it is the step that decides; retry or compensate the saga")
        self._seen = await self._look([step])
        going_back = self._going is Status.COMPENSATING
        if going_back and step.name not in definition.undoable:
            raise self._wrong(f"step '{step.name}' is never undone")
        refusal = self._refusal_by_journal(step.name) or refusal_of_skip(
            self._seen.get(step.name),
            self._going,
            is_call=step.database is None,
            is_repeated=self._is_repeated,
            result=self._text,
        )
        if refusal is not None:
            raise self._wrong(f"step '{step.name}' {refusal}")
        if not going_back:
            self._text()

    def _refusal_by_journal(self, step: str) -> str | None:
        if self._going is Status.COMPENSATING:
            return "is undone already" if step in self._reason.undone_by_hand else None
        return "is done already" if step == self._fused else None

    async def _check_resolve(self) -> None:
        definition, outcome = self._definition, self._order.outcome
        if self._going is Status.COMPLETING:
            return
        self._seen = await self._look([step for step in definition.steps if step.name != self._fused])
        done = {name for name, row in self._seen.items() if row.state is Mark.DONE} | {self._fused}
        decision = definition.decision
        wanted = [step.name for step in definition.steps] if decision is None else [decision.name]
        decided = done.issuperset(wanted)
        if outcome is Status.COMPENSATED:
            if decided and self._going is Status.RUNNING:
                raise TooLate(self._row.claim.saga_id, self._row.name, self._row.status.value)
        elif not decided:
            raise self._wrong("it is not decided, so it cannot be completed; resolve it as compensated")

    async def _check_compensate(self) -> None:
        """Raise `TooLate` if the ledger of the pivot says that it is done, which the journal may not know yet."""
        decision = None if self._known is None else pivot_elsewhere(self._known, self._home)
        if decision is None or self._going is not Status.RUNNING:
            return
        try:
            seen = await self._look([decision], _ONCE)
        except DatabaseUnavailable:
            return  # the owner asks it before it undoes anything
        if decision.name in seen and seen[decision.name].state is Mark.DONE:
            raise TooLate(self._row.claim.saga_id, self._row.name, Status.COMPLETING.value)

    async def _skip(self, claim: Claim) -> None:
        step, epoch = self._step, claim.epoch
        if self._going is not Status.COMPENSATING:
            await self._record_done_by_hand(step, epoch)
            return
        await self._block_decision(epoch)
        if step.name == self._fused:  # its record is the journal row
            by_hand = (*self._reason.undone_by_hand, step.name)
            self._reason = replace(self._reason, undone_by_hand=by_hand)
        else:
            await self._record_undone_by_hand(step, claim)

    async def _resolve(self, claim: Claim, after: Status) -> None:
        definition, epoch = self._definition, claim.epoch
        decision = definition.decision
        if after is Status.COMPENSATED:
            await self._block_decision(epoch)
            for name in definition.undoable:
                if name != self._fused:
                    await self._record_undone_by_hand(definition.by_name[name], claim)
            return
        for step in definition.steps:
            if step.name == self._fused or (step is decision and step.database_name == self._home):
                continue  # its record is the journal row
            found = await self._block(step, epoch)
            if step is decision and found.state is Mark.DONE:
                self._results[step.name] = found.result or "null"

    async def _block_decision(self, epoch: int) -> None:
        """Block the pivot; raise `TooLate` if the saga is decided."""
        # A pivot in the journal's database asks the journal, whose claim is ours.
        decision = pivot_elsewhere(self._definition, self._home)
        if decision is not None and (await self._block(decision, epoch)).state is Mark.DONE:
            raise TooLate(self._row.claim.saga_id, self._row.name, self._row.status.value)

    async def _record_done_by_hand(self, step: AnyStep, epoch: int) -> None:
        """Write the ledger row that *step* is done, with the person's result; raise if there is another one."""
        participant, entry, text = self._participant(step), self._entry(step, epoch), self._text()

        async def work(session: object) -> str:
            return text

        async def act() -> LedgerRow | None:
            found = await participant.look(entry.saga_id, [step.name])
            if step.name in found:
                return found[step.name]
            try:
                return LedgerRow(Mark.DONE, await participant.act(entry, work))
            except Exception as error:  # border: what a driver raises has no common class
                if participant.fault(error) is Fault.DUPLICATE_KEY:
                    return (await participant.look(entry.saga_id, [step.name])).get(step.name)
                raise

        if await self._at(step, act) != LedgerRow(Mark.DONE, text):
            # A late run of the step, or another person, was faster: the audit trail would name a wrong result.
            raise self._wrong(f"step '{step.name}' has another outcome meanwhile; look at the saga again")

    async def _record_undone_by_hand(self, step: AnyStep, claim: Claim) -> None:
        """Write the ledger row that *step* is undone or never happens; do not run its compensation."""

        async def nothing(session: object, result: str | None) -> None:
            return

        participant, entry = self._participant(step), self._entry(step, claim.epoch)
        seen = self._seen.get(step.name)
        happened = seen is not None and seen.state is Mark.DONE
        if happened and step.database is not None:
            await self._at(step, lambda: participant.undo(entry, nothing))
            return
        found = await self._block(step, claim.epoch)
        if found.state is Mark.DONE and not happened:
            raise self._wrong(f"step '{step.name}' has happened meanwhile; look at the saga again")
        if step.database is None:
            await self._at(step, lambda: self._engine.journal.undo_call(claim, step.name, entry.not_after))

    async def _block(self, step: AnyStep, epoch: int) -> LedgerRow:
        participant, entry = self._participant(step), self._entry(step, epoch)
        return await self._at(step, lambda: participant.undo(entry, None))

    async def _look(self, steps: list[AnyStep], retry: Retry = _AGAIN) -> Mapping[str, LedgerRow]:
        if self._records is not None:
            return {step.name: self._records[step.name] for step in steps if step.name in self._records}
        found: dict[str, LedgerRow] = {}
        for step in steps:
            look = partial(self._participant(step).look, self._row.claim.saga_id, [step.name])
            found.update(await self._at(step, look, retry))
        return found

    async def _at(self, step: AnyStep, work: Callable[[], Awaitable[T]], retry: Retry = _AGAIN) -> T:
        """Return the result of *work* on the database of *step*.

        Raises `DatabaseUnavailable` if it is down, and `SchemaMissing` if its ledger is missing.
        """
        engine, participant = self._engine, self._participant(step)
        saga_id, saga, node = self._row.claim.saga_id, self._row.name, participant.node
        attempts = Attempts(saga_id, saga, engine.clock, engine.emit, engine.timeouts)
        try:
            async with asyncio.timeout(_PATIENCE):
                with explaining(node, "ledger"):
                    return await attempts.persist(work, participant.fault, retry=retry)
        except (TimeoutError, OutOfReach):
            raise DatabaseUnavailable(
                node.database, node.name, "the saga stays as it was; repair it again"
            ) from None

    def _participant(self, step: AnyStep) -> Participant:
        return self._engine.participants[step.database_name or self._home]

    def _entry(self, step: AnyStep, epoch: int) -> Entry:
        return Entry(self._row.claim.saga_id, step.name, epoch, self._not_after)

    def _text(self) -> str:
        """Return the person's result as JSON."""
        step = self._step
        what = f"the result given for step '{step.name}'"
        try:
            value = step.result.validate_python(self._order.result)
        except ValidationError as error:
            raise PayloadError(f"{what} is not what the step returns: {said(error)}") from error
        return encode(step.result, value, what=what, limit=self._engine.settings.payload_limit)

    @property
    def _is_repeated(self) -> bool:
        """Whether a repair of the parked saga has claimed it, and was broken off before it changed the journal."""
        return self._row.status is Status.NEEDS_ATTENTION and self._row.claim.owner != NOBODY

    @property
    def _definition(self) -> Definition:
        if self._known is None:
            raise UnknownVersion(self._row.claim.saga_id, self._row.name)
        return self._known

    @property
    def _step(self) -> AnyStep:
        definition, name = self._definition, self._order.step
        if name not in definition.by_name:
            known = ", ".join(definition.by_name)
            raise DefinitionError(f"saga '{definition.name}' has no step '{name}'; its steps are {known}")
        return definition.by_name[name]

    def _wrong(self, remedy: str) -> WrongStatus:
        row, order = self._row, self._order
        return WrongStatus(row.claim.saga_id, row.name, order.action.value, row.status.value, remedy)

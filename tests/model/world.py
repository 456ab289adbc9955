"""Everything that can happen next, and what must hold in every state.

An effect happened at most once and was undone at most once; no effect stands without those it follows; `completed`
means all effects, `compensated` none; no caller hears both. After a caller has heard "completed" the saga is never
undone; after "will be undone" it is never completed; after "not started" there is never a saga. Only the holder of
the claim changes the journal; no owner hangs; and a fresh owner, left alone, brings the saga to rest.
"""

from collections.abc import Iterator
from functools import cache

from tests.model.databases import land, may_land
from tests.model.owners import Owners
from tests.model.persons import Persons
from tests.model.setting import Setting
from tests.model.states import (
    ABSENT,
    AGED,
    ATTENTION,
    BLOCKED,
    BORN_ALL_THE_SAME,
    BY_PERSON,
    CANCELLED,
    COMPENSATING,
    DONE,
    FAILED_OVER,
    FINAL,
    GONE,
    HANGS,
    LIVE,
    NOBODY,
    NOTHING,
    RUNNING,
    TOLD_COMPLETED,
    TOLD_UNDONE,
    UNDONE_BY_HAND,
    USURPED,
    Owner,
    Row,
    State,
)

USURPER = "a process without the claim changed the journal"


class World:
    """One saga with its databases and everybody around it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._owners, self._persons = Owners(setting), Persons(setting)
        self._tidies = setting.planted not in _ABOUT_CLAIMS
        self._ends = cache(self._comes_to_rest)

    def born(self) -> State:
        """The start is durable, and a fused first step with it; or two processes are about to start."""
        steps, first = range(len(self.setting.steps)), self.setting.first
        nothing = NOTHING * len(steps)
        if "starts" in self.setting.powers:
            starters = tuple(Owner(1, token, RUNNING, nothing, phase="starts") for token in (1, 2))
            return State(Row(ABSENT, 0, 0), nothing, (0,) * len(steps), starters, claims=2)
        marks = "".join(DONE if step == first else NOTHING for step in steps)
        owner = Owner(1, 1, RUNNING, marks)
        return State(Row(RUNNING, 1, 1), nothing, tuple(int(step == first) for step in steps), (owner,))

    def moves(self, state: State) -> Iterator[tuple[str, State]]:
        """Everything that can happen next."""
        for label, moved in self._raw_moves(state):
            yield label, self._tidy(state, moved)

    def wrong(self, state: State) -> str | None:
        """Which promise *state* breaks."""
        row, flags = state.row, state.flags
        if any(effect not in {0, 1} for effect in state.effects):
            return "an effect happened twice or was undone twice"
        if flags & BORN_ALL_THE_SAME:
            return "a caller was told that its saga was not started, and it was"
        status = row.parked_from if row.status == GONE else row.status
        if status == "completed" and not all(state.effects) and not flags & BY_PERSON:
            return "completed with a missing effect"
        unsettled = self._unsettled(state)
        stands = [effect == 1 and step not in unsettled for step, effect in enumerate(state.effects)]
        if status == "compensated" and any(stands):
            return "compensated with an effect left"
        if row.status == GONE and state.ledger.strip(NOTHING):
            return "the saga is gone and a ledger still knows it"
        wrong = self._wrong_word(status, flags) or self._wrong_order(state, stands) or self._wrong_end(state)
        return USURPER if wrong is None and flags & USURPED else wrong

    def _wrong_word(self, status: str, flags: int) -> str | None:
        if flags & TOLD_COMPLETED and (status == "compensated" or flags & TOLD_UNDONE):
            return "a caller was told 'completed' and the saga was undone"
        if flags & TOLD_UNDONE and status == "completed":
            return "a caller was told 'undone' and the saga was completed"
        return None

    def _wrong_order(self, state: State, stands: list[bool]) -> str | None:
        if state.flags & (BY_PERSON | UNDONE_BY_HAND):
            return None
        for step, stand in enumerate(stands):
            for one in self.setting.before[step] if stand else ():
                if state.effects[one] == 0 and state.ledger[step] in {DONE, NOTHING}:
                    return "an effect stands without one that it follows"
                if one in self.setting.calls and state.ledger[one] == NOTHING and state.row.status in LIVE:
                    return "a step has used the result of a call that is not recorded"
        return None

    def _wrong_end(self, state: State) -> str | None:
        if state.row.status in {*LIVE, ATTENTION} and not self._ends(state.row[0], state.row[3:], state.ledger):
            return "no fresh owner can finish"
        if state.flags & HANGS:
            return "an owner hangs"
        return None

    def _unsettled(self, state: State) -> frozenset[int]:
        """The calls that an owner may still have to undo, if the outside does not refuse them."""
        if not self.setting.forgetful:
            return frozenset()
        return frozenset[int]().union(*(owner.called for owner in state.owners))

    def _raw_moves(self, state: State) -> Iterator[tuple[str, State]]:
        yield from self._claims(state)
        for commit in state.late:
            landed = land(self.setting, state._replace(late=state.late - {commit}), commit)
            if landed is not None:
                yield f"late {commit.kind} {self._name(commit.step)} by {commit.token} lands", landed
        for place, owner in enumerate(state.owners):
            moves = list(self._owners.moves(state, place))
            yield from moves or [(f"{owner.token} hangs", state.flagged(HANGS))]
        if "person" in self.setting.powers:
            yield from self._persons.moves(state)
        if "failover" in self.setting.powers and not state.flags & FAILED_OVER:
            for row in state.past:
                yield f"falls back to {row.status}", state._replace(row=row, past=frozenset()).flagged(FAILED_OVER)
        if "retention" in self.setting.powers:
            yield from self._retention(state)

    def _claims(self, state: State) -> Iterator[tuple[str, State]]:
        """The lease is over by anybody's clock at any time; a deadline or a stranger's cancel is a claim too."""
        if state.row.status not in LIVE or state.claims >= self.setting.claims:
            return
        yield f"{state.claims + 1} takes over", self._taken(state, state.row.status)
        if "cancel" not in self.setting.powers or state.flags & CANCELLED:
            return
        if state.row.status != RUNNING and self.setting.planted != "cancel does not ask for the status":
            return
        if self.setting.planted == "cancel without a claim":
            cancelled = state._replace(row=state.row._replace(status=COMPENSATING)).flagged(USURPED)
        elif self.setting.planted == "cancel ends what has no row" and state.ledger.strip(NOTHING):
            ended = self._taken(state, "compensated")._replace(owners=state.owners)
            cancelled = ended if self.setting.first is None else ended.with_effect(self.setting.first, -1)
        else:
            cancelled = self._taken(state, COMPENSATING)
        told = self.setting.pivot is None or self.setting.pivot_at_home
        told = told or self.setting.planted == "cancel is confirmed before the pivot is blocked"
        cancelled = cancelled.flagged(TOLD_UNDONE | CANCELLED if told else CANCELLED)
        yield f"{state.claims + 1} cancels for a stranger", cancelled

    def _taken(self, state: State, status: str) -> State:
        token, epoch = state.claims + 1, state.row.epoch + 1
        owner = Owner(epoch, token, status, NOTHING * len(self.setting.steps), phase="takes stock")
        row = state.row._replace(status=status, epoch=epoch, holder=token)
        return state._replace(row=row, claims=token, owners=(*state.owners, owner))

    def _retention(self, state: State) -> Iterator[tuple[str, State]]:
        if state.row.status not in FINAL:
            return
        hasty = self.setting.planted == "retention does not wait for the fence"
        if not state.flags & AGED and not hasty:
            # What was sent more than a day ago has landed or never will.
            yield "a day passes", state._replace(late=frozenset()).flagged(AGED)
            return
        gone = Row(GONE, state.row.epoch, 0, parked_from=state.row.status)
        emptied = NOTHING * len(state.ledger)
        if state.ledger != emptied:
            yield "the ledgers are cleared", state._replace(ledger=emptied)
        if state.ledger == emptied or self.setting.planted == "the journal row goes before the ledgers":
            yield "the journal row is removed", state._replace(row=gone)

    def _tidy(self, before: State, state: State) -> State:
        """Leave away what no longer matters: who would only learn that its claim is gone, what can never land."""
        if "failover" in self.setting.powers and not state.flags & FAILED_OVER:
            return state if before.row == state.row else state._replace(past=before.past | {before.row})
        if self._tidies and (before.row != state.row or before.owners != state.owners):
            kept = tuple([owner for owner in state.owners if not self._owners.is_doomed(state, owner)])
            if len(kept) < len(state.owners):
                state = state._replace(owners=kept)
        if self._tidies and state.late:
            late = frozenset([commit for commit in state.late if may_land(state, commit)])
            if len(late) < len(state.late):
                state = state._replace(late=late)
        return state

    def _comes_to_rest(self, status: str, parked: tuple[str, bool], ledger: str) -> bool:
        """Tell whether a fresh owner, left alone, ends the saga, or parks it for who has begun to resolve it."""
        row = Row(status, 1, NOBODY, *parked)
        state = State(row, ledger, (0,) * len(ledger), ())
        half_resolved = any(mark == BLOCKED and kind == "retriable" for mark, kind in self._rows(ledger))
        if status == ATTENTION:
            state = self._persons.retried(state)
        state = self._taken(state, state.row.status)
        for _ in range(10 * len(ledger) + 10):
            if state.row.status in FINAL or not state.owners:
                break
            _, state = next(self._owners.moves(state, 0))
        parked = state.row.status == ATTENTION  # where a person sees it
        return state.row.status in FINAL or (half_resolved and parked and self._persons.resolves(state))

    def _rows(self, ledger: str) -> Iterator[tuple[str, str]]:
        return zip(ledger, self.setting.kinds, strict=True)

    def _name(self, step: int) -> str:
        return self.setting.names[step] if step >= 0 else "of the journal"


_ABOUT_CLAIMS = {
    "a late action overwrites what is there",
    "the claim is not checked",
    "the owner is not checked",
    "the status is not checked",
    "the first step is undone unconditionally",
    "the finish asks for nothing",
    "the pivot does not ask the journal",
}

"""One saga in sentences: what is going on, why, what stands, what comes next and when, what a person should do.

Facts come from the journal, from every database that could be asked, and from `decide`. A sentence never says more
than they do: what a database that could not be asked holds is called unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from polysaga.dashboard import words
from polysaga.dashboard.drawing.elements import tag, together
from polysaga.dashboard.masking import without
from polysaga.dashboard.screens.declared import DeclaredSaga, DeclaredStep, by_name
from polysaga.dashboard.screens.history import failures, lasted, steps_of
from polysaga.dashboard.screens.listing import lateness, resolved_by
from polysaga.errors import Refused
from polysaga.sagas import Examination, Parking, Planned, Reason, Status

STEPS = 6  # of a list in one sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The sentences."""

    headline: Markup
    was: str
    lines: tuple[tuple[str, Markup], ...]  # Why, Undone for, Was parked, Stands, Next, You


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEffects:
    """The steps by what their databases say."""

    done: tuple[str, ...]
    undone: tuple[str, ...]
    blocked: tuple[str, ...]
    unknown: tuple[str, ...]  # their database could not be asked


def seen_effects(found: Examination) -> SeenEffects:
    """Return what the databases say of the steps, in the definition's order."""
    states = {step: row.state.value for look in found.looks for step, row in look.rows.items()}
    silent = {look.database for look in found.looks if look.problem is not None}
    names = [step.name for step in found.steps] or list(states)
    undone = (found.saga.parked_from or found.saga.status) in {Status.COMPENSATING, Status.COMPENSATED}
    return SeenEffects(
        done=tuple(name for name in names if states.get(name) == "done"),
        undone=tuple(name for name in names if states.get(name) == "compensated"),
        blocked=tuple(name for name in names if states.get(name) == "blocked"),
        unknown=tuple(
            step.name
            for step in found.steps
            if step.database in silent and step.name not in states
            if not (undone and step.kind == "retriable")  # it comes behind the decision
        ),
    )


def story(
    found: Examination,
    declared: DeclaredSaga | None,
    *,
    lease: float,
    hidden: frozenset[str],
    drivers: Sequence[str] | None = None,
) -> Story:
    """Return the story; *hidden* are values that texts must not show, *drivers* as for `saga_screen`."""
    return _Teller(found, declared, lease, hidden, drivers).tell()


class _Teller:
    def __init__(
        self,
        found: Examination,
        declared: DeclaredSaga | None,
        lease: float,
        hidden: frozenset[str],
        drivers: Sequence[str] | None,
    ) -> None:
        self.found, self.saga, self.lease, self.hidden = found, found.saga, lease, hidden
        self.drivers = drivers
        self.steps, self.seen = by_name(declared), seen_effects(found)
        self.database = {step.name: step.database for step in steps_of(found)}
        self.cause: Reason | Parking | None = None
        if self.saga.error is not None:
            self.cause = self.saga.error.parked or self.saga.error

    def tell(self) -> Story:
        lines = [
            ("Why", self.why()),
            ("Undone for", self.undone_for()),
            ("Was parked", self.was_parked()),
            ("Stands", self.stands()),
            ("Next", self.next()),
            ("You", self.you()),
        ]
        return Story(
            headline=self.headline(), was=self.was(), lines=tuple((name, text) for name, text in lines if text)
        )

    def headline(self) -> Markup:
        saga, step = self.saga, self.saga.step
        if saga.status.final and self.found.contradictions:
            word = "Completed" if saga.status is Status.COMPLETED else "Undone"
            wrong = words.counted(len(self.found.contradictions), "contradiction")
            return _say("{} by the journal, but the databases do not fit it: {}.", word, wrong)
        match saga.status:
            case Status.NEEDS_ATTENTION:
                return self._parked_headline()
            case Status.COMPLETED:
                by = resolved_by(saga)
                return _say("Completed by {}'s word.", by) if by else Markup("Completed: every step has happened.")
            case Status.COMPENSATED:
                return self._undone_headline()
        late = lateness(saga, self.found.at, self.lease)
        if not saga.known:
            return _say(
                "Version {} is not known to this process, so it is left to one that knows it.", saga.version
            )
        if late:
            return _say("Late by {}: no process has taken it over.", late)
        coming = self.found.moves[0] if self.found.moves else None
        where = "" if coming is None else words.place(self.database.get(coming.step))
        waits_until = saga.wake_at if saga.owner is None else None
        if waits_until is not None and waits_until <= self.found.at and coming is not None:
            goes_on = self._move(coming.step, coming.phase)
            return _say("Due now: the next free process goes on with {}{}.", goes_on, where)
        if waits_until is not None:
            when = words.ahead(waits_until, self.found.at)
            what = "Decided, but" if saga.status is Status.COMPLETING else "Put aside, because"
            name = step or (None if coming is None else coming.step)
            if name is None:
                return _say("Put aside; tried again {}.", when)
            return _say("{} {} keeps failing{}. It is tried again {}.", what, _code(name), where, when)
        word = {
            Status.RUNNING: "Under way and not decided",
            Status.COMPLETING: "Decided, and on its way to the end",
            Status.COMPENSATING: "Being undone",
        }[saga.status]
        if coming is None:
            return _say("{}.", word)
        return _say("{}: {}{}{}.", word, self._move(coming.step, coming.phase), where, self._attempt(coming))

    def _attempt(self, coming: Planned) -> str:
        before = len(failures(self.saga.history, coming.step, coming.phase))
        if not before:
            return " is under way" if self.saga.owner is not None else " comes next"
        return f" is tried again; it has failed {_times(before)}"

    def _parked_headline(self) -> Markup:
        saga, step = self.saga, self.saga.step
        end = "Nothing moves until a person decides."
        if self._is_deserted and step is not None:
            where, phase = words.place(self.database.get(step)), "undo" if self._undoes() else "do"
            return _say("No process came past {}{}. {}", self._move(step, phase), where, end)
        if step is None:
            return _say("Parked: {}. {}", self._text(saga.reason or "no reason was kept").rstrip("."), end)
        where = words.place(self.database.get(step))
        if saga.parked_from is Status.COMPENSATING:
            undo = self.steps[step].undo if step in self.steps else None
            number = len(failures(saga.history, step, "undo"))
            failed = f"failed {_times(number)}" if number else "cannot be done"
            what = _say("{}, which undoes {}{},", _code(undo), step, where) if undo else None
            half = "Half undone" if self.seen.undone or self.seen.blocked else "To be undone"
            if what is None:
                return _say("{}: undoing {}{} {}. {}", half, _code(step), where, failed, end)
            return _say("{}: {} {}. {}", half, what, failed, end)
        number = len(failures(saga.history, step, "do"))
        failed = f"failed {_times(number)}" if number else "cannot be done"
        decided = "Decided, but " if saga.parked_from is Status.COMPLETING else "Not decided: "
        return _say("{}{}{} {}. {}", decided, _code(step), where, failed, end)

    def _undone_headline(self) -> Markup:
        saga = self.saga
        by = resolved_by(saga)
        if by:
            return _say("Resolved by {} as compensated; its compensations did not end it.", by)
        reason, kind = self._text(saga.reason or ""), None if saga.error is None else saga.error.kind
        if kind == "refused":
            return _say("Refused and cleanly undone: {}", reason)
        if kind == "cancelled":
            return _say("Cancelled and cleanly undone: {}", reason)
        if kind == "overdue":
            return _say("Cleanly undone, because {}.", reason.rstrip("."))
        if saga.step:
            where = words.place(self.database.get(saga.step))
            return _say("Cleanly undone, because {}{} failed.", _code(saga.step), where)
        return Markup("Cleanly undone.")

    def why(self) -> Markup:
        cause, saga = self.cause, self.saga
        if saga.error is not None and saga.error.resolved is not None and saga.status.final:
            return _say("{} resolved it: &ldquo;{}&rdquo;.", saga.error.resolved.by, saga.error.resolved.why)
        if cause is not None and cause.message:
            return self._cause(cause)
        step = self.saga.step or next((move.step for move in self.found.moves), None)
        phase = next((move.phase for move in self.found.moves), "do")
        failed = failures(saga.history, step, phase) if step else []
        if failed and not saga.status.final:
            last = failed[-1]
            text = self._text((last.said or "").removeprefix(f"{last.outcome}: "))
            said = f": {text}" if text and text != last.outcome else ""
            number = words.counted(len(failed), "attempt")
            return _say("{}{}. {} of {} failed.", tag("b", last.outcome), said, number, step or "")
        return Markup()

    def _cause(self, cause: Reason | Parking) -> Markup:
        message = self._text(cause.message)
        if cause.kind == "refused" and cause.step is not None:
            rest = "That is the business saying no, not a failure; the caller got this answer."
            return _say("{} refused{}: {} {}", cause.step, _with(cause.code), _ended(message), rest)
        if cause.kind in {"cancelled", "overdue"}:
            return _say("{}", _ended(message))
        name, colon, rest = message.partition(": ")
        if colon and name.isidentifier():
            told = _say("{}: {}", tag("b", name), _ended(rest))
        else:
            told = _say("{}", _ended(message))
        if self.saga.status is Status.NEEDS_ATTENTION and self.saga.parked_at is not None:
            tried = self._tried()
            until = words.at(self.saga.parked_at, self.found.at)
            told += _say(" Tried {} until {}.", tried, until) if tried else _say(" Parked at {}.", until)
        return told

    def _tried(self) -> str:
        step = self.saga.step
        if step is None or self.saga.parked_at is None:
            return ""
        phase = "undo" if self.saga.parked_from is Status.COMPENSATING else "do"
        failed = failures(self.saga.history, step, phase)
        if not failed:
            return ""
        seconds = words.since(self.saga.created_at, self.saga.parked_at) - failed[0].at_ms / 1000
        return f"for {words.duration(seconds)}" if seconds >= 1 else ""

    def undone_for(self) -> Markup:
        saga, error = self.saga, self.saga.error
        going = saga.parked_from or saga.status
        if error is None or error.parked is None or going is not Status.COMPENSATING or not error.message:
            return Markup()
        message = _ended(self._text(error.message))
        if error.kind == "refused":
            return _say("{} refused{}: {}", error.step or "a step", _with(error.code), message)
        if error.step is None:
            return _say("{}", message)
        where = words.place(self.database.get(error.step))
        return _say("{}{} failed: {} So the saga was to be undone.", error.step, where, message)

    def was_parked(self) -> Markup:
        """Say why it was parked before a person repaired it."""
        act = self.saga.repaired
        if act is None or act.error_before is None or self.saga.status is Status.NEEDS_ATTENTION:
            return Markup()
        parking = act.error_before.parked
        if parking is None:
            return Markup()
        until = words.at(act.at, self.found.at)
        when = f"Until {until}" if parking.at is None else f"{words.at(parking.at, self.found.at)} to {until}"
        where = "" if parking.step is None else words.place(self.database.get(parking.step))
        at = Markup() if parking.step is None else _say(" at {}{}", _code(parking.step), where)
        return _say("{}{}: {}", when, at, _ended(self._text(parking.message) or "no reason was kept"))

    def stands(self) -> Markup:
        seen, saga = self.seen, self.saga
        parts: list[Markup] = []
        if not self.found.steps and not (seen.done or seen.undone or seen.blocked):
            return Markup("Unknown: this process does not have the definition of that version.")
        if seen.done:
            parts.append(self._still_done(seen.done))
        elif not seen.unknown and self.found.steps:
            over = saga.status.final or seen.undone or seen.blocked
            parts.append(_say("Nothing {}.", "of it" if over else "yet"))
        if seen.undone:
            parts.append(_say("{} {} undone.", _names(seen.undone), _were(seen.undone)))
        if seen.blocked:
            parts.append(_say("{} never happened and never can.", _names(seen.blocked)))
        if seen.unknown:
            silent = words.joined(sorted({self.database[name] or "" for name in seen.unknown}))
            told = "It is unknown what became of {}: {} could not be asked."
            parts.append(_say(told, _names(seen.unknown), tag("b", silent)))
        pivot = next((step.name for step in self.found.steps if step.kind == "pivot"), None)
        going = saga.parked_from or saga.status
        if pivot is not None and pivot not in seen.done and going in {Status.COMPENSATING, Status.COMPENSATED}:
            parts.append(_say("The pivot {} never ran, so the saga was never decided.", pivot))
        return Markup(" ").join(parts)

    def _still_done(self, done: Sequence[str]) -> Markup:
        going = self.saga.parked_from or self.saga.status
        places = [f"{name}{words.place(self.database.get(name))}" for name in done[:STEPS]]
        if len(done) > STEPS:
            places.append(f"{len(done) - STEPS} more")
        if going is Status.COMPENSATING:
            return tag("b", f"{words.joined(places)} {_are(done)} still done.")
        undoable = going is Status.RUNNING and self.saga.status is not Status.COMPLETED
        end = "have happened and can still be undone." if undoable else "have happened."
        return _say("{} {}", words.joined(places), end if len(done) > 1 else end.replace("have", "has", 1))

    def next(self) -> Markup:
        saga, found = self.saga, self.found
        moves = [self._move(move.step, move.phase) for move in found.moves]
        end = words.STATUS[(Status.COMPENSATED if self._undoes() else Status.COMPLETED).value]
        if saga.status.final:
            if found.removed_at is None:
                return Markup("Nothing: it is at rest.")
            until = _on(found.removed_at)
            if saga.key is None:
                return _say("Nothing: it is at rest. It is removed on {}.", until)
            return _say(
                "Nothing: it is at rest. The same key gives the same answer until it is removed on {}.", until
            )
        if saga.status is Status.NEEDS_ATTENTION:
            return self._after_retry(moves, end)
        if not saga.known:
            if self.drivers is None:
                return _say(
                    "It waits for a process that knows version {}. The overview lists which are up.", saga.version
                )
            if self.drivers:
                return _say(
                    "It waits for a process that knows version {}; {} does.", saga.version, self.drivers[0]
                )
            return _say(
                "It waits for a process that knows version {}, and none is up. Once one is, it goes on by itself.",
                saga.version,
            )
        if found.late:
            return Markup("The first process that ticks takes it over. Are the other processes up?")
        order = _then(moves, end)
        if saga.crashing:
            return order
        if saga.status is Status.RUNNING:
            when = (
                ""
                if saga.deadline is None
                else f" If it is not decided {words.ahead(saga.deadline, found.at)}, it is undone."
            )
            return order + self._while_it_fails("everything is undone") + when
        if saga.status is Status.COMPLETING:
            return order + Markup(" For as long as it takes: it is decided, so it is never undone.")
        return order + self._while_it_fails("the saga is parked for a person")

    def _while_it_fails(self, end: str) -> Markup:
        """Say for how long what comes next is retried, and what happens then."""
        coming = self.found.moves[0] if self.found.moves else None
        if coming is None:
            return self._while_any_fails(end)
        known, move = self.steps.get(coming.step), self._move(coming.step, coming.phase)
        if known is None:
            return _say(" If {} keeps failing, {}.", move, end)
        within = known.within if coming.phase == "do" else known.undo_within
        if within is None:
            return _say(" {} is retried for as long as it takes.", move)
        if within < 1:
            return _say(" If {} fails, {}.", move, end)
        return _say(" If {} keeps failing for {}, {}.", move, words.brief(within), end)

    def _while_any_fails(self, end: str) -> Markup:
        """Say the same of a saga of which a database could not be asked what comes next."""
        what, limits = "a step", {step.within for step in self.steps.values() if step.kind != "retriable"}
        if self._undoes():
            what, limits = "a compensation", {step.undo_within for step in self.steps.values() if step.undo}
        limit = limits.pop() if len(limits) == 1 else None
        if limit is None:
            return _say(" If {} keeps failing, {}.", what, end)
        return _say(" If {} keeps failing for {}, {}.", what, words.brief(limit), end)

    @property
    def _is_deserted(self) -> bool:
        return self.cause is not None and self.cause.is_deserted

    def _after_desertion(self, moves: Sequence[Markup], end: str) -> Markup:
        """Say what a person can do with a saga whose processes ended or hung one after the other."""
        if not moves:
            return _say("Nothing by itself. Every step is done: {} only ends it.", tag("b", "retry"))
        told = _say(
            "Nothing by itself. A {} may end the next process too: read in the logs why they ended, and remove "
            "the cause first. Then: {}",
            tag("b", "retry"),
            _then(moves, end),
        )
        undo = any(one.action == "compensate" and one.problem is None for one in self.found.options)
        if undo and self.saga.step is not None:
            told += _say(" {} does not run {}.", tag("b", "Compensate"), _code(self.saga.step))
        return told

    def _after_retry(self, moves: Sequence[Markup], end: str) -> Markup:
        if self._is_deserted:
            return self._after_desertion(moves, end)
        if not moves:
            return Markup("Nothing by itself. Remove the cause, then decide on the right what happens.")
        skip = ""
        if self.saga.step is not None and any(
            one.action == "skip" and one.problem is None for one in self.found.options
        ):
            done = "undone" if self._undoes() else "done"
            skip = _say(" If {} was {} by hand, {} it instead.", self.saga.step, done, tag("b", "skip"))
        told = _say("Nothing by itself. Remove the cause, then {}: {}", tag("b", "retry"), _then(moves, end))
        return told + skip if skip else told

    def you(self) -> Markup:
        saga = self.saga
        if not saga.status.moving:
            return Markup()
        if saga.crashing:
            return self._while_it_crashes()
        silent = [look.database for look in self.found.looks if look.problem is not None]
        if silent:
            goes_on = "It goes on by itself then."
            return _say("Bring {} back: it could not be asked. {}", tag("b", words.joined(silent)), goes_on)
        if not saga.known and self.drivers is not None and not self.drivers:
            return _say("Deploy version {} of {} again, beside the present one.", saga.version, saga.name)
        if self.found.late and saga.known:
            return Markup("Look at the processes on the overview: the one that drove it may hang.")
        if saga.status is Status.RUNNING:
            return Markup("Nothing to do. You can have it undone until it is decided.")
        if saga.owner is None:
            coming = self.found.moves[0] if self.found.moves else None
            if coming is None:
                return Markup("Nothing to do.")
            where = words.place(self.database.get(coming.step))
            failing = self._move(coming.step, coming.phase)
            return _say("Nothing to do, unless {} fails for a lasting reason{}.", failing, where)
        return Markup()

    def _while_it_crashes(self) -> Markup:
        saga = self.saga
        told = _say("{} processes in a row ended, or hung, while they drove it.", f"{saga.expiries:,}")
        reached = all(look.problem is None for look in self.found.looks)
        if not self.found.moves and self.found.steps and reached:
            told += Markup(" Nothing of it is left to do, so another crashing saga is more likely the cause.")
        else:
            told += Markup(" Read in their logs why.")
            undo = any(one.action == "compensate" and one.problem is None for one in self.found.options)
            if undo:
                told += _say(" {} has it undone without running what comes next.", tag("b", "Compensate"))
        return told + Markup(" After eleven, the next process parks it.")

    def was(self) -> str:
        saga, now = self.saga, self.found.at
        if saga.finished_at is not None:
            took = words.duration(lasted(saga, saga.finished_at))
            return f"at rest since {words.at(saga.finished_at, now)}, after {took}"
        if saga.status is Status.NEEDS_ATTENTION:
            was = "" if saga.parked_from is None else f"was {saga.parked_from.value}"
            when = "" if saga.parked_at is None else f"parked {words.ago(saga.parked_at, now)}"
            return ", ".join(part for part in (was, when) if part)
        return f"started {words.ago(saga.created_at, now)}"

    def _undoes(self) -> bool:
        going = self.saga.parked_from or self.saga.status
        return going in {Status.COMPENSATING, Status.COMPENSATED}

    def _move(self, step: str, phase: str) -> Markup:
        known: DeclaredStep | None = self.steps.get(step)
        if phase == "do":
            return _code(step)
        return _code(known.undo) if known is not None and known.undo else _say("undoing {}", _code(step))

    def _text(self, text: str) -> str:
        return without(words.plainly(words.first_line(text)), self.hidden)


def _with(code: str | None) -> Markup:
    """Return the code of a refusal, unless it has the one that all have by default."""
    return Markup() if code in {None, Refused.code} else _say(" with {}", tag("b", code))


def _say(text: str, *parts: object) -> Markup:
    """Return a sentence whose *parts* are escaped unless they are markup."""
    return Markup(text).format(*parts)  # noqa: S704 - the texts are written in this file


def _code(text: str | None) -> Markup:
    return tag("code", text or "?")


def _then(moves: Sequence[Markup], end: str) -> Markup:
    """Return what happens in order, such as `a, then b; then the saga is completed`."""
    if not moves:
        return _say("The saga is {} next.", tag("b", end))
    shown = list(moves[:STEPS])
    if len(moves) > STEPS:
        shown.append(_say("{} more", len(moves) - STEPS))
    return together([Markup(", then ").join(shown), _say("; then the saga is {}.", tag("b", end))])


def _names(steps: Sequence[str]) -> str:
    shown = list(steps[:STEPS])
    return words.joined([*shown, f"{len(steps) - STEPS} more"] if len(steps) > STEPS else shown)


def _were(steps: Sequence[str]) -> str:
    return "was" if len(steps) == 1 else "were"


def _are(steps: Sequence[str]) -> str:
    return "is" if len(steps) == 1 else "are"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _on(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"

"""The crash kit: runs a saga again and again, each time with one disturbance, and checks what is left.

    CrashKit(sagas, settings, setup=create_tables).prove(place_order, order, invariant=books_add_up)

The points where a run can be disturbed are found by running it. See `docs/guides/crash-kit.md`.
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

from polysaga.clock import Clock
from polysaga.config import Settings
from polysaga.databases import SqlNode
from polysaga.errors import ConfigurationError
from polysaga.sagas import Saga, Sagas
from polysaga.testing.crash_kit.cases import Cases
from polysaga.testing.crash_kit.disturbances import Case, Kill, Point
from polysaga.testing.crash_kit.harness import CaseOutcome, Invariant, Theatre, theatre
from polysaga.testing.crash_kit.oracle import Run
from polysaga.testing.crash_kit.samples import dealt

InputT = TypeVar("InputT")

_SINGLES = 0.75  # of a sample: cases with one disturbance; the others disturb the recovery as well
_MOST_TOLD = 5  # violations after which the kit stops: they have one cause, or few


@dataclass(slots=True)
class CrashReport:
    """What was run: counts by kind of disturbance, and the story of every violation, the shortest first."""

    saga: str
    seed: int
    runs: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    left_out: str | None = None  # which cases were not run, and why
    cases: list[str] = field(default_factory=list)  # that broke the promise; `only=` repeats one


@dataclass(frozen=True, slots=True)
class CrashProgress:
    """How far a proof is: *done* cases of *planned*, *broken* of them, after *seconds*.

    How many crashes of recoveries there are is *counted* only when all other cases have been run.
    """

    saga: str
    done: int
    planned: int
    counted: bool
    broken: int
    seconds: float

    def __str__(self) -> str:
        more = "" if self.counted else ", then crashes of recoveries"
        told = f"{self.done} of {self.planned} cases{more}, {self.broken} broke the promise"
        return f"crash kit: {self.saga}: {told}, {self.seconds:.0f} s"


class PromiseBroken(AssertionError):
    """A run ended in a state that it must not end in; *report* has all that were found."""

    def __init__(self, report: CrashReport) -> None:
        story = report.violations[0]
        repeat = f"only={report.cases[0]!r}, or pytest --crash-case '{report.cases[0]}'"
        super().__init__(
            f"{len(report.violations)} of {report.runs} runs of '{report.saga}' break the promise; "
            f"the shortest story:\n\n{story}\n\nRepeat it with {repeat}"
        )
        self.report = report


class CrashKit:
    """Proves that sagas keep their promise on the databases of *settings*, which it fills and empties.

    *setup* creates the program's own tables; the journal's and the ledgers' are created here. The databases must
    be for tests only: runs leave records behind. *sample* runs about that many cases, chosen by *seed*, instead of
    all; *only* repeats the case of that name. *part* is (1, 2) or (2, 2) for half of the cases each, which two
    processes can then run at once on databases of their own. *report* is handed every report, also of proofs that
    fail, *progress* is called after every case.
    """

    def __init__(
        self,
        sagas: Sagas,
        settings: Settings,
        *,
        setup: Callable[[], Awaitable[None]] | None = None,
        sample: int | None = None,
        seed: int = 0,
        only: str | None = None,
        part: tuple[int, int] = (1, 1),
        report: Callable[[CrashReport], None] | None = None,
        progress: Callable[[CrashProgress], None] | None = None,
    ) -> None:
        self._sagas, self._settings, self._setup = sagas, settings, setup
        self._sample, self._seed, self._only, self._part, self._report = sample, seed, only, part, report
        self._progress = progress

    def prove(
        self,
        saga: Saga[InputT, Any],
        value: InputT | Callable[[], Awaitable[InputT]],
        *,
        invariant: Invariant,
        beside: InputT | Callable[[], Awaitable[InputT]] | None = None,
    ) -> CrashReport:
        """Run every case of *saga*; raise `PromiseBroken` with the shortest story if one of them breaks it.

        *value* is the input, or a function called before every run that brings the databases into a known state
        and returns the input. *invariant* is called after every run and asserts what must be so; a step counts as
        done exactly once or undone exactly once without its help.

        In some cases a second saga of the same definition runs beside the first one. Its input is *beside*, or
        what that function returns, called after *value*; None: the input of the first. The invariant is asked
        about both, with `Run.beside`. If it does not hold when the second saga begins after the end of the first,
        it is written for one saga: these cases are left out, and the report says so in `left_out`.

        Raises `ConfigurationError` if no case ran, for instance because none has the name that was asked for.

        For code that is asynchronous already there is `explore`, which raises nothing about violations.
        """
        report = asyncio.run(self.explore(saga, value, invariant=invariant, beside=beside))
        if report.violations:
            raise PromiseBroken(report)
        return report

    async def explore(
        self,
        saga: Saga[InputT, Any],
        value: InputT | Callable[[], Awaitable[InputT]],
        *,
        invariant: Invariant,
        beside: InputT | Callable[[], Awaitable[InputT]] | None = None,
    ) -> CrashReport:
        """Do as `prove` does and return the report, violations included."""
        clock, report = Clock(), CrashReport(saga.name, self._seed)
        began, broken = clock.monotonic(), list[CaseOutcome]()

        def tell(exploration: _Exploration) -> None:
            if self._progress is not None:
                done, planned, counted = exploration.progress
                seconds = clock.monotonic() - began
                self._progress(CrashProgress(saga.name, done, planned, counted, len(broken), seconds))

        async with self._exploring(saga, value, beside, invariant) as exploration:
            async for outcome in exploration.outcomes(tell):
                report.runs += 1
                report.kinds[outcome.case.group] += 1
                if outcome.problems:
                    broken.append(outcome)
                if len(broken) >= _MOST_TOLD:
                    break
        if not report.runs:
            raise ConfigurationError(exploration.nothing_ran())
        broken.sort(key=lambda one: (len(one.case.acts), len(one.story)))
        report.violations = [one.text() for one in broken]
        report.cases = [str(one.case) for one in broken]
        report.seconds = round(clock.monotonic() - began, 2)
        report.left_out = exploration.left_out
        if self._report is not None:
            self._report(report)
        return report

    async def names(
        self,
        saga: Saga[InputT, Any],
        value: InputT | Callable[[], Awaitable[InputT]],
        *,
        invariant: Invariant | None = None,
        beside: InputT | Callable[[], Awaitable[InputT]] | None = None,
    ) -> list[str]:
        """Return the names of all cases that `prove` would run; it takes the runs that show which there are.

        A few of them may find no place for their disturbance when they are run; those are not counted there.
        """
        async with self._exploring(saga, value, beside, invariant or _no_invariant) as exploration:
            return await exploration.listed()

    @asynccontextmanager
    async def _exploring(
        self,
        saga: Saga[InputT, Any],
        value: InputT | Callable[[], Awaitable[InputT]],
        beside: InputT | Callable[[], Awaitable[InputT]] | None,
        invariant: Invariant,
    ) -> "AsyncIterator[_Exploration]":
        given = _as_function(value)
        second = None if beside is None else _as_function(beside)
        async with theatre(self._sagas, self._settings, self._setup) as stage:
            prefix = uuid4().hex  # keys of an earlier session must not be joined

            async def play(case: Case) -> CaseOutcome:
                return await stage.play(saga, given, second, invariant, case, prefix)

            steps, chance = stage.definition(saga).by_name, random.Random(self._seed)
            cases = self._cases(stage, saga)
            yield _Exploration(cases, play, steps, self._sample, chance, self._only, self._part)

    def _cases(self, stage: Theatre, saga: Saga[Any, Any]) -> Cases:
        nodes = [handle.primary for handle in (self._sagas.journal, *self._sagas.participants)]
        single = {node.database for node in nodes if isinstance(node, SqlNode) and node.dialect.single_writer}
        turned = stage.definition(saga, turned=True)
        return Cases(stage.definition(saga), turned, home=self._sagas.journal.name, single_writers=single)


class _Exploration:
    """All cases, or a sample of them, in the order of their size."""

    def __init__(
        self,
        cases: Cases,
        play: Callable[[Case], Awaitable[CaseOutcome]],
        steps: Collection[str],
        sample: int | None,
        chance: random.Random,
        only: str | None,
        part: tuple[int, int],
    ) -> None:
        self._cases, self._play, self._steps = cases, play, steps
        self._sample, self._chance, self._only = sample, chance, only
        self._first, self._parts = part[0] - 1, part[1]
        self.names: list[str] = []  # of all cases that were met, those of other parts included
        self._elsewhere: dict[str, int] = {}  # in which other part a case is
        self._left_out, self._written_for_one = 0, ""  # how many cases beside another saga, and why
        self._done = self._planned = 0
        self._counted = False

    def nothing_ran(self) -> str:
        """Say why no case ran: what that proves must not look like a proof."""
        part = f"part {self._first + 1} of {self._parts}"
        if self._only is None:
            return f"no case ran: {part} is empty"
        # A crash in the recovery of a crash is in the part of that crash.
        first = "/".join(self._only.split("/")[:2])
        elsewhere = self._elsewhere.get(self._only, self._elsewhere.get(first))
        if elsewhere is not None:
            return (
                f"case {self._only!r} did not run: it is not in {part}, but in part {elsewhere}; leave out part="
            )
        near = get_close_matches(self._only, self.names, n=5, cutoff=0.0)
        return f"no case named {self._only!r} ran; the nearest names are {', '.join(map(repr, near))}"

    @property
    def left_out(self) -> str | None:
        """Which cases are left out, and why."""
        if not self._left_out:
            return None
        return (
            f"{self._left_out} cases beside another saga, because the invariant is written for one saga; let it "
            f"count run.beside, too (two sagas, one after the other: {self._written_for_one})"
        )

    @property
    def progress(self) -> tuple[int, int, bool]:
        """How many cases are done, how many are planned, and whether that is all of them."""
        return self._done, self._planned, self._counted

    async def outcomes(self, tell: "Callable[[_Exploration], None]") -> AsyncIterator[CaseOutcome]:
        """Yield what comes of every case; one whose acts found no place is not counted."""
        singles: list[Case] = []
        async for outcome in self._undisturbed():
            name = str(outcome.case)
            if self._first != 0:
                self._elsewhere[name] = 1  # the other parts run it too, for its points
            elif self._only in {None, name}:
                yield outcome
            singles += await self._singles(outcome)
        self.names += map(str, singles)
        self._elsewhere |= {str(case): number % self._parts + 1 for number, case in enumerate(singles)}
        ours = singles[self._first :: self._parts]
        for case in ours:
            del self._elsewhere[str(case)]
        kills: list[tuple[Case, list[Point]]] = []
        async for outcome in self._played(self._chosen(ours, _SINGLES), tell):
            if outcome.played and self._only in {None, str(outcome.case)}:
                yield outcome
            if self._has_doubles(outcome.case) and not outcome.problems:
                kills.append((outcome.case, outcome.trace))
        doubles = [second for case, trace in kills for second in self._cases.double(case, trace)]
        self.names += map(str, doubles)
        self._counted = True
        async for outcome in self._played(self._chosen(doubles, 1 - _SINGLES), tell):
            if outcome.played and self._only in {None, str(outcome.case)}:
                yield outcome

    async def listed(self) -> list[str]:
        """Return the names of all cases, in the order of a full run."""
        singles: list[Case] = []
        async for outcome in self._undisturbed():
            singles += await self._singles(outcome)
        doubles: list[Case] = []
        for case in filter(self._has_doubles, singles):
            doubles += self._cases.double(case, (await self._play(case)).trace)
        return [*self.names, *map(str, singles), *map(str, doubles)]

    async def _undisturbed(self) -> AsyncIterator[CaseOutcome]:
        plots = list(self._cases.plots())
        await self._play(Case(plots[0]))  # drivers show only now how they commit
        for plot in plots:
            outcome = await self._play(Case(plot))
            self.names.append(str(outcome.case))
            yield outcome

    async def _singles(self, undisturbed: CaseOutcome) -> list[Case]:
        plot, trace = undisturbed.case.plot, undisturbed.trace
        found = list(self._cases.single(plot, trace))
        beside = list(self._cases.beside(plot, trace, undisturbed.gaps))
        if beside and not undisturbed.problems:
            one_after_the_other = await self._play(self._cases.alone_first(plot, trace))
            if one_after_the_other.problems:
                self._left_out += len(beside)
                self._written_for_one = one_after_the_other.problems[0]
            elif one_after_the_other.played:
                found += beside
        return found

    async def _played(
        self, cases: list[Case], tell: "Callable[[_Exploration], None]"
    ) -> AsyncIterator[CaseOutcome]:
        self._planned += len(cases)
        for case in cases:
            outcome = await self._play(case)
            self._done += 1
            yield outcome
            tell(self)

    def _has_doubles(self, case: Case) -> bool:
        return isinstance(case.acts[0], Kill) and not case.plot.turned

    def _chosen(self, cases: list[Case], share: float) -> list[Case]:
        if self._only is not None:
            # A crash in the recovery of a crash begins as that crash does.
            return [case for case in cases if f"{self._only}/".startswith(f"{case}/")]
        if self._sample is None:
            return cases
        wanted = math.ceil(self._sample * share / self._parts)
        return list(islice(dealt(cases, self._steps, self._chance), wanted)) if wanted < len(cases) else cases


async def _no_invariant(_: Run) -> None:
    """Hold."""


def _as_function(value: Any) -> Callable[[], Awaitable[Any]]:
    return value if callable(value) else _always(value)


def _always(value: InputT) -> Callable[[], Awaitable[InputT]]:
    async def given() -> InputT:
        return value

    return given

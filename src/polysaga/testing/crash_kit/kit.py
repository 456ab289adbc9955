"""The crash kit: runs a saga again and again, each time with one disturbance, and checks the result.

    CrashKit(sagas, settings, setup=create_tables).prove(place_order, order, invariant=books_add_up)

Running the saga shows the points where it can be disturbed. See `docs/guides/crash-kit.md`.
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

_SINGLES = 0.75  # share of a sample with one disturbance; the other cases disturb the recovery as well
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
    cases: list[str] = field(default_factory=list)  # names of those that broke the promise; `only=` repeats one


@dataclass(frozen=True, slots=True)
class CrashProgress:
    """How far a proof is: *done* of *planned* cases, *broken* of them, after *seconds*.

    *counted*: *planned* includes the crashes of recoveries; their number is known once all other cases have run.
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
    """A run ended in a forbidden state; *report* has all violations that were found."""

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

    *setup* creates the program's own tables; the kit creates those of the journal and the ledgers. The databases
    must be for tests only: runs leave records behind. *sample* runs about that many cases, chosen by *seed*,
    instead of all; *only* repeats the case of that name. *part* is (1, 2) or (2, 2) for one half of the cases
    each: two processes can run them at once, each on its own databases. *report* receives every report, even of
    proofs that fail. *progress* is called after every case.
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
        """Run every case of *saga*; raise `PromiseBroken` with the shortest story if a case breaks the promise.

        *value* is the input, or a function that is called before every run, brings the databases into a known
        state and returns the input. *invariant* is called after every run and asserts what must hold. The kit
        itself checks that each step was done exactly once or undone exactly once.

        In some cases a second saga of the same definition runs beside the first one. Its input is *beside*, or
        what that function returns, called after *value*; None: the input of the first. The invariant is called
        for both, with `Run.beside`. If it fails even when the second saga begins after the end of the first, it is
        written for one saga: the kit leaves these cases out, and the report says so in `left_out`.

        Raises `ConfigurationError` if no case ran, for instance because no case has the requested name.

        Asynchronous code calls `explore`, which reports violations but does not raise them.
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
        """Return the names of all cases that `prove` would run, after the runs that are needed to find them.

        A few of them may find no place for their disturbance when they run; `prove` does not count those.
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
            prefix = uuid4().hex  # no run may join a saga of an earlier session by its key

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
        self.names: list[str] = []  # of all cases found, those of other parts included
        self._elsewhere: dict[str, int] = {}  # the part of each case that is in another part
        self._left_out, self._written_for_one = 0, ""  # how many cases beside another saga, and why
        self._done = self._planned = 0
        self._counted = False

    def nothing_ran(self) -> str:
        """Return why no case ran: such a run proves nothing, and must not look like a proof."""
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
        """Return which cases are left out, and why; None if none are."""
        if not self._left_out:
            return None
        return (
            f"{self._left_out} cases beside another saga, because the invariant is written for one saga; let it "
            f"count run.beside, too (two sagas, one after the other: {self._written_for_one})"
        )

    @property
    def progress(self) -> tuple[int, int, bool]:
        """Return how many cases are done, how many are planned, and whether these are all."""
        return self._done, self._planned, self._counted

    async def outcomes(self, tell: "Callable[[_Exploration], None]") -> AsyncIterator[CaseOutcome]:
        """Yield the outcome of every case; skip a good one whose acts found no place."""
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
            if self._tells(outcome):
                yield outcome
            if self._has_doubles(outcome.case) and not outcome.problems:
                kills.append((outcome.case, outcome.trace))
        doubles = [second for case, trace in kills for second in self._cases.double(case, trace)]
        self.names += map(str, doubles)
        self._counted = True
        async for outcome in self._played(self._chosen(doubles, 1 - _SINGLES), tell):
            if self._tells(outcome):
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
        await self._play(Case(plots[0]))  # the first run shows how the drivers commit
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

    def _tells(self, outcome: CaseOutcome) -> bool:
        """Return whether the case counts: its acts took place, or it went wrong before that."""
        return (outcome.played or bool(outcome.problems)) and self._only in {None, str(outcome.case)}

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

"""The crash kit: runs a saga again and again, each time with one disturbance, and checks what is left.

    CrashKit(sagas, settings, setup=create_tables).prove(place_order, order, invariant=books_add_up)

The points where a run can be disturbed are found by running it. See `docs/guides/crash-kit.md`.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar, cast
from uuid import uuid4

from polysaga.clock import Clock
from polysaga.config import Settings
from polysaga.databases import SqlNode
from polysaga.errors import ConfigurationError
from polysaga.sagas import Saga, Sagas
from polysaga.testing.cases import Cases
from polysaga.testing.points import Case, Kill, Point
from polysaga.testing.theatre import Invariant, Outcome, Theatre, theatre

InputT = TypeVar("InputT")

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
    cases: list[str] = field(default_factory=list)  # that broke the promise; `only=` repeats one


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
    fail.
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
    ) -> None:
        self._sagas, self._settings, self._setup = sagas, settings, setup
        self._sample, self._seed, self._only, self._part, self._report = sample, seed, only, part, report

    def prove(
        self,
        saga: Saga[InputT, Any],
        value: InputT | Callable[[], Awaitable[InputT]],
        *,
        invariant: Invariant,
    ) -> CrashReport:
        """Run every case of *saga*; raise `PromiseBroken` with the shortest story if one of them breaks it.

        *value* is the input, or a function called before every run that brings the databases into a known state
        and returns the input. *invariant* is called after every run and asserts what must be so; a step counts as
        done exactly once or undone exactly once without its help.

        Raises `ConfigurationError` if no case ran, for instance because none has the name that was asked for.

        For code that is asynchronous already there is `explore`, which raises nothing about violations.
        """
        report = asyncio.run(self.explore(saga, value, invariant=invariant))
        if report.violations:
            raise PromiseBroken(report)
        return report

    async def explore(
        self,
        saga: Saga[InputT, Any],
        value: InputT | Callable[[], Awaitable[InputT]],
        *,
        invariant: Invariant,
    ) -> CrashReport:
        """Do as `prove` does and return the report, violations included."""
        clock, report = Clock(), CrashReport(saga.name, self._seed)
        began, broken = clock.monotonic(), list[Outcome]()
        given = cast("Callable[[], Awaitable[Any]]", value if callable(value) else _always(value))
        chance = random.Random(self._seed)
        async with theatre(self._sagas, self._settings, self._setup) as stage:
            prefix = uuid4().hex  # keys of an earlier session must not be joined

            async def play(case: Case) -> Outcome:
                return await stage.play(saga, given, invariant, case, prefix)

            cases = self._cases(stage, saga)
            exploration = _Exploration(cases, play, self._sample, chance, self._only, self._part)
            async for outcome in exploration.outcomes():
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
        if self._report is not None:
            self._report(report)
        return report

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
        play: Callable[[Case], Awaitable[Outcome]],
        sample: int | None,
        chance: random.Random,
        only: str | None,
        part: tuple[int, int],
    ) -> None:
        self._cases, self._play, self._sample, self._chance, self._only = cases, play, sample, chance, only
        self._first, self._parts = part[0] - 1, part[1]
        self._names: list[str] = []  # of all cases that were met

    def nothing_ran(self) -> str:
        """Say why no case ran: what that proves must not look like a proof."""
        part = f"part {self._first + 1} of {self._parts}"
        if self._only is None:
            return f"no case ran: {part} is empty"
        if self._only in self._names:
            return f"case {self._only!r} did not run: it is not in {part}; leave out part="
        near = get_close_matches(self._only, self._names, n=5, cutoff=0.0)
        return f"no case named {self._only!r} ran; the nearest names are {', '.join(map(repr, near))}"

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """Yield what comes of every case; one whose acts found no place is not counted."""
        plots = list(self._cases.plots())
        await self._play(Case(plots[0]))  # drivers show only now how they commit
        singles: list[Case] = []
        for plot in plots:
            outcome = await self._play(Case(plot))
            self._names.append(str(outcome.case))
            if self._first == 0 and self._only in {None, str(outcome.case)}:
                yield outcome  # the other parts run it too, for its points
            singles += self._cases.single(plot, outcome.trace)
        self._names += map(str, singles)
        kills: list[tuple[Case, list[Point]]] = []
        for case in self._chosen(singles, share=2)[self._first :: self._parts]:
            outcome = await self._play(case)
            if outcome.played and self._only in {None, str(case)}:
                yield outcome
            if isinstance(case.acts[0], Kill) and not case.plot.turned and not outcome.problems:
                kills.append((case, outcome.trace))
        doubles = [second for case, trace in kills for second in self._cases.double(case, trace)]
        self._names += map(str, doubles)
        for case in self._chosen(doubles, share=2):
            outcome = await self._play(case)
            if outcome.played and self._only in {None, str(case)}:
                yield outcome

    def _chosen(self, cases: list[Case], share: int) -> list[Case]:
        if self._only is not None:
            # A crash in the recovery of a crash begins as that crash does.
            return [case for case in cases if f"{self._only}/".startswith(f"{case}/")]
        if self._sample is None or len(cases) <= self._sample // share:
            return cases
        shuffled = self._chance.sample(cases, len(cases))
        # One of each kind goes first, with branches in their own order: only of those the recovery is disturbed.
        shuffled.sort(key=lambda case: case.plot.turned)
        first = {case.group: case for case in reversed(shuffled)}
        self._chance.shuffle(shuffled)
        return list(dict.fromkeys([*first.values(), *shuffled]))[: self._sample // share]


def _always(value: InputT) -> Callable[[], Awaitable[InputT]]:
    async def given() -> InputT:
        return value

    return given

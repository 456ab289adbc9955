"""The cases, derived from what undisturbed runs showed. Nothing is listed by hand."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import dropwhile

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.protocol.decisions import fused_first
from polysaga.testing.crash_kit.disturbances import (
    Beside,
    Cancel,
    Case,
    Deadline,
    Disconnect,
    Fail,
    Freeze,
    Hold,
    Kill,
    Kind,
    Plot,
    Point,
    Stage,
    Until,
)

_ORDER = [Stage.BEFORE, Stage.AT, Stage.AFTER]


class Cases:
    """The cases of one saga; *single_writers* are databases where one open transaction blocks all others."""

    def __init__(
        self, definition: Definition, turned: Definition, *, home: str, single_writers: Collection[str]
    ) -> None:
        self._definition, self._turned, self._home = definition, turned, home
        self._single_writers = single_writers
        self._databases = {step.name: step.database_name or home for step in definition.steps}

    def plots(self) -> Iterator[Plot]:
        """Yield every undisturbed run: no step or one step refuses, with branches in both orders."""
        orders = [False]
        if [step.name for step in self._definition.steps] != [step.name for step in self._turned.steps]:
            orders.append(True)
        refusing = [step.name for step in self._definition.steps if step.kind != "retriable"]
        for turned in orders:
            yield Plot(turned=turned)
            for step in refusing:
                yield Plot(step, turned)

    def alone_first(self, plot: Plot, trace: Sequence[Point]) -> Case:
        """Return the case in which a second saga runs after the saga of *trace* has ended."""
        return Case(plot, (Beside(trace[-1]),))

    def beside(self, plot: Plot, trace: Iterable[Point], gaps: Iterable[Point]) -> Iterator[Case]:
        """Yield the cases with a second saga: after a step or compensation, and between two of its statements."""
        if plot.turned:
            return
        for point in dict.fromkeys([*trace, *gaps]):
            database = self._databases.get(point.work.removeprefix("undo "))
            if database is None:
                continue
            # Between its statements a step blocks all other writers of a single-writer database.
            apart = point.stage is Stage.BETWEEN and database not in self._single_writers
            if point.stage is Stage.AFTER or apart:
                yield Case(plot, (Beside(point),))

    def single(self, plot: Plot, trace: Iterable[Point]) -> Iterator[Case]:
        """Yield every case with one disturbance of the run that left *trace*, without a second saga."""
        points = list(dict.fromkeys(trace))
        for point in points:
            yield from (Case(plot, (act,)) for act in self._kills(point))
            if point.stage is Stage.BEFORE:
                yield Case(plot, (Disconnect(point, happened=True),))
                yield Case(plot, (Disconnect(point, happened=False),))
            yield from (Case(plot, (act,)) for act in self._zombies(plot, point))
            yield Case(plot, (Cancel(point),))
        yield from (Case(plot, (act,)) for act in self._deadlines(points))
        yield from (Case(plot, (act,)) for act in self._failures(plot, points))
        yield from (Case(plot, (act,)) for act in self._holds(plot, points))

    def double(self, first: Case, trace: Iterable[Point]) -> Iterator[Case]:
        """Yield *first*, a crash, with a second crash at every point of the recovery that *trace* shows."""
        (kill,) = first.acts
        if not isinstance(kill, Kill) or kill.overdue:
            return
        recovery = [point for point in dict.fromkeys(trace) if point.owner != kill.point.owner]
        for point in recovery:
            yield from (Case(first.plot, (kill, act)) for act in self._kills(point))
        if kill.point.stage is Stage.AT and kill.point == next(iter(_since_birth(trace))):
            yield from (Case(first.plot, (kill, Deadline(point))) for point in recovery)

    def _kills(self, point: Point) -> Iterator[Kill]:
        if point.stage in _ORDER:
            yield Kill(point)

    def _zombies(self, plot: Plot, point: Point) -> Iterator[Freeze]:
        database = self._databases.get(point.work.removeprefix("undo "))
        forward = plot.refused is None and database is not None
        match point.stage:
            case Stage.BEGIN:
                yield Freeze(point, Until.REST)
                yield Freeze(point, Until.TOGETHER)
                yield Freeze(point, Until.OVERTAKEN)
                yield Freeze(point, Until.REST, cancelled=True)
                if forward:
                    yield Freeze(point, Until.REST, refused=True)
                    yield Freeze(point, Until.TOGETHER, refused=True)
            case Stage.BEFORE if database is None:
                yield Freeze(point, Until.REST)
            case Stage.BEFORE if database not in self._single_writers:
                yield Freeze(point, Until.REST, ended=True)
                yield Freeze(point, Until.TOGETHER)
                if forward:
                    yield Freeze(point, Until.REST, ended=True, refused=True)
            case Stage.BEFORE if database != self._home:
                yield Freeze(point, Until.TOUCHED)
            case Stage.AT:
                yield Freeze(point, Until.REST)
                yield Freeze(point, Until.REST, cancelled=True)
                if forward:
                    yield Freeze(point, Until.REST, refused=True)

    def _deadlines(self, points: Iterable[Point]) -> Iterator[Deadline | Kill | Freeze]:
        """Yield the ways in which the deadline passes: while the owner drives, or when it is dead or frozen."""
        for point in _since_birth(points):
            yield Deadline(point)
            if point.stage is Stage.AT:
                yield Kill(point, overdue=True)
            if point.stage in {Stage.BEGIN, Stage.AT}:
                yield Freeze(point, Until.REST, overdue=True)

    def _failures(self, plot: Plot, points: Iterable[Point]) -> Iterator[Fail]:
        if plot.refused is None:
            for step in self._definition.steps:
                for kind in Kind:
                    yield Fail(step.name, kind, once=True)
                    yield Fail(step.name, kind, once=False)
        for work in dict.fromkeys(point.work for point in points if point.work.startswith("undo ")):
            for kind in Kind:
                yield Fail(work, kind, once=True)
                yield Fail(work, kind, once=False)

    def _holds(self, plot: Plot, points: Iterable[Point]) -> Iterator[Hold]:
        """Yield the points where a branch can be when the step beside it refuses."""
        # The start of the saga and this step are one commit: nothing runs beside it.
        born_with = fused_first(self._definition, self._home)
        if plot.refused is None or plot.refused == born_with:
            return
        for point in points:
            if point.work == plot.refused:
                return
            if point.work == born_with:
                continue
            if point.work not in self._beside(plot.refused) or point.stage is Stage.AFTER:
                continue
            if self._definition.by_name[point.work].database is None:
                continue  # a call under way is not cancelled but awaited
            # In a single-writer database a step holds the one connection from its first statement to the reply.
            if point.stage is Stage.BEGIN or self._alone_there(point.work):
                yield Hold(point)

    def _beside(self, step: str) -> set[str]:
        ancestors: Mapping[str, Collection[str]] = self._definition.ancestors
        return {
            other
            for other in ancestors
            if other != step and other not in ancestors[step] and step not in ancestors[other]
        }

    def _alone_there(self, step: str) -> bool:
        database = self._databases[step]
        others = {self._databases[other] for other in self._beside(step)}
        return database not in self._single_writers or database not in others


def _since_birth(points: Iterable[Point]) -> Iterator[Point]:
    """Yield the points from the commit that puts the saga into the journal."""
    return dropwhile(lambda point: point.stage is not Stage.AT, points)

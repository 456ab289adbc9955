"""The timeline of one saga: a lane for each database, a row for each step, and above them who drove it.

Forward attempts are in the upper half of a row, undoing in the lower. Times are ms since the saga was created.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from polysaga.dashboard.drawing.elements import percent, tag, together

_CLASSES = {
    "done": "b-done",
    "undone": "b-undone",
    "failed": "b-failed",
    "active": "b-active",
    "null": "b-null",
    "own": "b-own",
    "plan": "b-plan",
}
_MARKS = {
    "failed": ("b-x", "M-2.6 -2.6L2.6 2.6M2.6 -2.6L-2.6 2.6"),
    "null": ("b-slash", "M-3 3L3 -3"),
    "undone": ("b-mark", "M1.8 -3L-1.6 0L1.8 3"),
    "done": ("b-mark", "M-3 0L-1 2.2L3 -2.2"),
}
_ROW, _OWNER, _LANE, _AXIS, _FLAG = 44, 34, 24, 44, 14  # pixels
_LETTER, _BESIDE = 1.1, 1.8  # percent of a track of 600 pixels: a letter of a label, and the space beside it


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time in a row."""

    t0: float
    t1: float
    kind: str  # done failed active wait aside fold null undone own plan
    undo: bool = False
    text: str = ""  # shown to a pointer
    label: str = ""  # written inside, if there is room
    count: int = 0  # of a fold


@dataclass(frozen=True, slots=True)
class Track:
    """A step, or who drove the saga."""

    name: str
    said: str  # one line under the name
    bars: Sequence[Bar]
    cls: str = "step"


@dataclass(frozen=True, slots=True)
class Lane:
    """A database and its steps."""

    database: str
    engine: str
    rows: Sequence[Track]


@dataclass(frozen=True, slots=True)
class Juncture:
    """A moment that concerns all rows."""

    t: float
    cls: str  # d-forward d-undo d-park d-now
    label: str


class Axis:
    """Time, stretched: every gap between two marks is drawn by the logarithm of its length.

    Where nothing is known of the length (what comes next), callers place marks a second apart.
    """

    def __init__(self, times: Sequence[float], end: float, folds: Sequence[tuple[float, float]] = ()) -> None:
        marks = sorted({0.0, *times, end})
        weights = []
        for left, right in pairwise(marks):
            weight = 0.55 + min(3.4, math.log10(1 + (right - left)))
            if any(begin <= left and right <= until for begin, until in folds):
                weight += 3.2
            weights.append(weight)
        total, x = sum(weights) or 1.0, 0.0
        self._marks, self._at = marks, {marks[0]: 0.0}
        for mark, weight in zip(marks[1:], weights, strict=True):
            x += weight / total * 100
            self._at[mark] = x

    def x(self, t: float) -> float:
        """Return the place of *t* in percent."""
        if t in self._at:
            return self._at[t]
        before = max((mark for mark in self._marks if mark <= t), default=self._marks[0])
        after = min((mark for mark in self._marks if mark >= t), default=self._marks[-1])
        if before == after:
            return self._at[before]
        left, right = self._at[before], self._at[after]
        return left + (right - left) * (t - before) / (after - before)

    def ticks(self, wanted: Sequence[tuple[float, str]]) -> list[tuple[float, float]]:
        """Return those of the *wanted* times whose words do not cover those before them, with their places."""
        found: list[tuple[float, float]] = []
        taken: dict[str, tuple[float, float]] = {}
        for t, word in wanted:
            x = self.x(t)
            extent = _extent(x, word, _anchor(x))
            if word not in taken and all(_are_apart(extent, other) for other in taken.values()):
                found.append((t, x))
                taken[word] = extent
        return sorted(found)


def gantt(
    owner: Track,
    lanes: Sequence[Lane],
    lines: Sequence[Juncture],
    ticks: Sequence[tuple[float, str]],
    end: float,
    summary: str,
) -> Markup:
    """Return the timeline as a list; *summary* says the same in a sentence, *ticks* are times with their words."""
    bars = [*owner.bars, *(bar for lane in lanes for row in lane.rows for bar in row.bars)]
    times = [t for bar in bars for t in (bar.t0, bar.t1)] + [line.t for line in lines]
    axis = Axis(times, end, [(bar.t0, bar.t1) for bar in bars if bar.kind == "fold"])
    drawn = _Drawn(axis, lines, axis.ticks(ticks))
    found = [drawn.header(dict(ticks)), drawn.row(owner, _OWNER)]
    for lane in lanes:
        found.append(drawn.lane(lane))
        found += [drawn.row(row, _ROW) for row in lane.rows]
    return tag("ol", *found, class_="gantt", aria_label=summary)


class _Drawn:
    def __init__(self, axis: Axis, lines: Sequence[Juncture], ticks: Sequence[tuple[float, float]]) -> None:
        self._axis, self._lines, self._ticks = axis, lines, ticks

    def header(self, names: dict[float, str]) -> Markup:
        flags, labels, kept, taken = [], [], -99.0, list[tuple[float, float]]()
        lower = 0  # pixels: a flag that would cover another one stands below it
        for line in self._lines:
            x = self._axis.x(line.t)
            anchor, dx = ("end", -5) if x > 62 else ("start", 5)
            extent = _extent(x, line.label, anchor)
            down = 0 if all(_are_apart(extent, other) for other in taken) else _FLAG
            lower = max(lower, down)
            taken.append(extent)
            flag = tag("text", line.label, class_="g-flag", x=percent(x), y=15 + down, dx=dx, text_anchor=anchor)
            flags.append(tag("g", flag, class_=line.cls))
        for t, x in self._ticks:
            narrow = x - kept < 24
            kept = kept if narrow else x
            hidden = "g-hide" if narrow else None
            place = {"x": percent(x), "y": 37 + lower, "text_anchor": _anchor(x)}
            labels.append(tag("text", names[t], **place, class_=hidden))
        label = tag("span", "since the start", class_="faint")
        height = _AXIS + lower
        return _row("axis", label, height, [*self._moments(4, height), *labels, *flags])

    def lane(self, lane: Lane) -> Markup:
        label = together([tag("b", lane.database), " ", tag("span", lane.engine, class_="faint")])
        return _row("lane", label, _LANE, self._grid(_LANE))

    def row(self, one: Track, height: int) -> Markup:
        base = 13 if one.bars else height / 2
        baseline = tag("line", class_="g-base", x1=0, x2="100%", y1=base, y2=base)
        inner = [part for bar in one.bars for part in self._bar(bar)]
        label = together([tag("b", one.name), " ", tag("span", one.said, class_="dim")])
        cls = one.cls if one.bars else f"{one.cls} none"
        return _row(cls, label, height, [*self._grid(height), baseline, *inner, *self._undo(one)])

    def _undo(self, one: Track) -> list[Markup]:
        """Return the word beside the first bar of the lower half."""
        undo = min((self._axis.x(bar.t0) for bar in one.bars if bar.undo), default=0.0)
        if undo <= 6:
            return []
        turn = max((self._axis.x(line.t) for line in self._lines if line.cls == "d-undo"), default=0.0)
        near = undo - turn < 7
        x, dx = (turn, -6) if near else (undo, -8)
        return [tag("text", "undo", x=percent(x), y=35, dx=dx, text_anchor="end", class_="g-undo g-hide")]

    def _grid(self, height: int) -> list[Markup]:
        ticks = [
            tag("line", class_="g-tick", x1=percent(x), x2=percent(x), y1=0, y2=height) for _, x in self._ticks
        ]
        return [*ticks, *self._moments(0, height)]

    def _moments(self, top: int, bottom: int) -> list[Markup]:
        found = []
        for line in self._lines:
            x = percent(self._axis.x(line.t))
            found.append(
                tag("g", tag("line", class_="g-decision", x1=x, x2=x, y1=top, y2=bottom), class_=line.cls)
            )
        return found

    def _bar(self, bar: Bar) -> list[Markup]:
        x0, x1 = self._axis.x(bar.t0), self._axis.x(bar.t1)
        width = max(x1 - x0, 0.25)
        top, tall = (25, 12) if bar.undo else (7, 12)
        if bar.kind == "own":
            top, tall = 8, 18
        title = [tag("title", bar.text)] if bar.text else []
        box = {"x": percent(x0), "y": top, "width": percent(width), "height": tall, "rx": 2}
        middle, centre = top + tall / 2, percent(x0 + width / 2)
        if bar.kind in {"wait", "aside"}:
            fill = "url(#hatch)" if bar.kind == "wait" else "url(#dots)"
            return [tag("g", *title, tag("rect", **box, fill=fill, stroke="none"))]
        if bar.kind == "fold":
            failed = tag("rect", **box, class_="b-failed", stroke_width=1)
            more = tag(
                "text", f"{bar.count} more", x=centre, y=middle + 4, text_anchor="middle", class_="g-count g-hide"
            )
            return [tag("g", *title, failed, tag("rect", **box, fill="url(#fails)")), more]
        cls = _CLASSES[bar.kind]
        dashed = bar.kind == "active"
        rect = tag(
            "rect",
            **box,
            class_=f"{cls} pulse" if dashed else cls,
            stroke_width=1.6,
            stroke_linejoin="round",
            stroke_dasharray="3 2" if dashed else None,
        )
        found = [tag("g", *title, rect)]
        if bar.kind in _MARKS and (bar.kind != "done" or width > 1.2):
            mark, path = _MARKS[bar.kind]
            found.append(tag("svg", tag("path", class_=mark, d=path), x=centre, y=middle, overflow="visible"))
        if bar.label and width >= _LETTER * len(bar.label):
            found.append(tag("text", bar.label, x=centre, y=21, text_anchor="middle", class_="g-own g-hide"))
        return found


def _anchor(x: float) -> str:
    """Return where the word of a tick begins, so that it stays in the drawing."""
    return "start" if x < 3 else "end" if x > 96 else "middle"


def _extent(x: float, word: str, anchor: str) -> tuple[float, float]:
    """Return from where to where a word at *x* reaches, in percent."""
    width = _BESIDE + _LETTER * len(word)
    begin = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
    return begin, begin + width


def _are_apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[1] <= other[0] or other[1] <= one[0]


def _row(cls: str, label: Markup, height: int, drawn: Sequence[Markup]) -> Markup:
    track = tag("svg", *drawn, height=height, aria_hidden="true")
    return tag(
        "li", tag("div", label, class_="g-label"), tag("div", track, class_="g-track"), class_=f"g-row {cls}"
    )

"""Charts over time, meters and the graph of a saga's steps."""

from collections.abc import Sequence

from markupsafe import Markup

from polysaga.dashboard.drawing.elements import percent, tag, tenths, together

WIDTH = 600  # units of a stretched chart
_ENDINGS = ("f-completed", "f-compensated", "f-parked")
_MOST_CELLS = 40  # connections that are drawn one by one


def bars(series: Sequence[tuple[float, float, float]], label: str, height: int = 68) -> Markup:
    """Return stacked columns, one a minute: completed, compensated, parked."""
    most = max((sum(one) for one in series), default=0) or 1
    width, found = WIDTH / max(1, len(series)), []
    for place, one in enumerate(series):
        y = float(height)
        for value, cls in zip(one, _ENDINGS, strict=True):
            if value:
                tall = max(value / most * (height - 2), 1.2)
                y -= tall
                found.append(_rect(cls, place * width + 0.9, y, width - 1.8, tall))
    return _chart(found, label, height)


def lines(
    p50: Sequence[float | None], p95: Sequence[float | None], label: str, most: float, height: int = 68
) -> Markup:
    """Return p50 and p95 over time, up to *most*; minutes without a value are gaps."""
    found = [_polyline("l-p95", run) for run in _runs(p95, most, height)]
    found += [_polyline("l-p50", run) for run in _runs(p50, most, height)]
    return _chart(found, label, height)


def spark(values: Sequence[float | None], label: str, *, failed: Sequence[int] = (), height: int = 26) -> Markup:
    """Return one value over time; the minutes at the places *failed* are shaded."""
    step = _step(values)
    top = max((value for value in values if value is not None), default=0.0) * 1.1 or 1.0
    found = [_rect("f-gap", place * step - step / 2, 0, step, height) for place in failed]
    found += [_polyline("l-p50", run) for run in _runs(values, top, height)]
    return _chart(found, label, height)


def lag(values: Sequence[float | None], limit: float, label: str, height: int = 44) -> Markup:
    """Return lag over time, seconds, with the *limit* of reads; times without an answer are shaded."""
    most = max([limit * 1.5, *(value for value in values if value is not None)])
    step, y = _step(values), height - 1 - limit / most * (height - 3)
    found = [
        _rect("f-gap", place * step - step / 2, 0, step + 0.4, height)
        for place, value in enumerate(values)
        if value is None
    ]
    for run in _runs(values, most, height):
        (left, _), (right, _) = run[0], run[-1]
        under = f"{left:.1f},{height} {_points(run)} {right:.1f},{height}"
        found += [tag("polygon", class_="a-lag", points=under), _polyline("l-lag", run)]
    found.append(tag("line", class_="l-limit", x1=0, x2=WIDTH, y1=tenths(y), y2=tenths(y)))
    return _chart(found, label, height)


def pool(used: int, size: int, most_over: int) -> Markup:
    """Return one cell a connection: used, free, and beyond the *size*; one bar if there are too many for cells."""
    over = max(0, used - size)
    label = f"{used} of {size} connections in use"
    if most_over:
        label = f"{min(used, size)} of {size} connections in use, {over} of {most_over} beyond them"
    total = size + most_over
    if total > _MOST_CELLS:
        return level(used, total, label)
    cell, found = 100 / max(1, total), []
    for place in range(total):
        busy, extra = place < used, place >= size
        cls = ("m-over" if busy else "m-over-free") if extra else ("m-used" if busy else "m-free")
        found.append(_cell(cls, percent(place * cell + 0.5), percent(cell - 1.2)))
    return tag("svg", *found, role="img", aria_label=label)


def level(used: float, most: float, label: str) -> Markup:
    """Return how full something is."""
    share = max(min(used / (most or 1), 1.0) * 99, 0.8)
    return tag(
        "svg", _cell("m-free", 0.5, "99%"), _cell("m-used", 0.5, percent(share)), role="img", aria_label=label
    )


def share(parts: Sequence[tuple[float, str, str]], label: str) -> Markup:
    """Return one bar cut into parts: value, class and name."""
    total, x, found = sum(value for value, _, _ in parts) or 1, 0.0, []
    for value, cls, name in parts:
        width = value / total * 100
        title = tag("title", f"{name}: {value:,.0f}")
        found.append(
            tag("rect", title, class_=cls, x=percent(x), y=0, width=percent(max(width - 0.3, 0.3)), height=18)
        )
        x += width
    return tag("svg", *found, role="img", aria_label=label)


def graph(steps: Sequence[tuple[str, str, str]], after: Sequence[tuple[str, str]], label: str) -> Markup:
    """Return steps (name, database, kind) and what follows what, from the left to the right."""
    columns = _columns([name for name, _, _ in steps], after)
    tallest = max(len(column) for column in columns)
    height = tallest * 84 - 28
    at = {
        name: (number * 162, (height - (len(column) * 84 - 40)) / 2 + row * 84)
        for number, column in enumerate(columns)
        for row, name in enumerate(column)
    }
    found = [_edge(at[one], at[other]) for one, other in after]
    for name, database, kind in steps:
        x, y = at[name]
        cls = {"pivot": "n-pivot", "retriable": "n-fwd"}.get(kind, "n-box")
        where = f"{_cut(database, 13)}, pivot" if kind == "pivot" else _cut(database, 20)
        found += [
            tag("rect", class_=cls, x=x, y=y, width=132, height=44, rx=7),
            tag("text", _cut(name, 16), x=x + 11, y=y + 19),
            tag("text", where, class_="t-small", x=x + 11, y=y + 35),
        ]
    width = len(columns) * 162 - 28
    return tag("svg", *found, width=width, height=height + 8, role="img", aria_label=label)


def _cut(name: str, most: int) -> str:
    """Return *name*, or as much of it as fits into a box; the list of steps has the whole."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _columns(names: Sequence[str], after: Sequence[tuple[str, str]]) -> list[list[str]]:
    depth = dict.fromkeys(names, 0)
    for name in names:  # in a topological order
        depth[name] = max((depth[one] + 1 for one, other in after if other == name), default=0)
    return [[name for name in names if depth[name] == number] for number in range(max(depth.values()) + 1)]


def _edge(one: tuple[float, float], other: tuple[float, float]) -> Markup:
    x0, y0, x1, y1 = one[0] + 132, one[1] + 22, other[0], other[1] + 22
    middle = (x0 + x1) / 2
    line = f"M{x0} {y0}C{middle} {y0} {middle} {y1} {x1 - 6} {y1}"
    head = f"M{x1 - 7} {y1 - 4}L{x1} {y1}L{x1 - 7} {y1 + 4}Z"
    return together([tag("path", class_="n-edge", d=line), tag("path", class_="n-head", d=head)])


def _chart(parts: Sequence[Markup], label: str, height: int) -> Markup:
    box = f"0 0 {WIDTH} {height}"
    return tag(
        "svg", *(parts or [Markup()]), viewBox=box, preserveAspectRatio="none", role="img", aria_label=label
    )


def _rect(cls: str, x: float, y: float, width: float, height: float) -> Markup:
    return tag("rect", class_=cls, x=tenths(x), y=tenths(y), width=tenths(width), height=tenths(height))


def _cell(cls: str, x: object, width: str) -> Markup:
    return tag("rect", class_=cls, x=x, y=1, width=width, height=8, rx=1, stroke_width=1)


def _polyline(cls: str, run: Sequence[tuple[float, float]]) -> Markup:
    return tag("polyline", class_=cls, points=_points(run))


def _points(run: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in run)


def _step(values: Sequence[object]) -> float:
    return WIDTH / max(1, len(values) - 1)


def _runs(values: Sequence[float | None], most: float, height: float) -> list[list[tuple[float, float]]]:
    """Return the stretches without a gap; a single value is drawn as a short line."""
    step = _step(values)
    runs: list[list[tuple[float, float]]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((place * step, height - 1 - min(value, most) / most * (height - 3)))
    found = [run for run in runs if run]
    return [run if len(run) > 1 else _short(run[0], step) for run in found]


def _short(point: tuple[float, float], step: float) -> list[tuple[float, float]]:
    x, y = point
    return [(max(0.0, x - step / 2), y), (min(float(WIDTH), x + step / 2), y)]

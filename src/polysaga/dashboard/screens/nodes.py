"""Databases as this process sees them: roles, lag, pools, where reads went and why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from polysaga.dashboard import words
from polysaga.dashboard.drawing import charts
from polysaga.dashboard.recent import Happening
from polysaga.dashboard.screens.hosts import host

_REASONS: Mapping[str, tuple[str, str]] = {  # class and meaning
    "fresh": ("r-fresh", "no bookmark; not too far behind"),
    "caught-up": ("r-caught", "it had reached the bookmark"),
    "pinned": ("r-pinned", "this request had read there before"),
    "strong": ("r-strong", "the caller asked for the primary"),
    "no-replica": ("r-none", "none was fit, so the primary"),
    "stale": ("r-stale", "none was fresh enough, and stale reads were allowed"),
}
_EVENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """The connections of this process to one node."""

    used: int
    size: int
    more: int  # connections beyond `size` that are allowed
    waiting: int | None  # callers that wait for one; None: not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What is known of one node; lengths of time in seconds."""

    url: str  # without the password
    role: str  # primary, replica, unknown
    label: str  # primary, or replica and its place in the settings
    failure: str | None
    asked_ago: float | None
    lag: float | None  # of a replica
    latency: float | None
    zone: str | None
    position: str
    pool: PoolFacts | None
    breaker: str
    history: Sequence[float | None] | None  # lag over time; None: not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """What is known of one database."""

    name: str
    engine: str
    journal: bool
    replicated: bool
    consistency: str
    max_lag: float
    wait: float
    nodes: tuple[NodeFacts, ...]
    routed: Mapping[tuple[str, str], int]  # sessions by node and reason
    waits: tuple[int, float] | None = None  # readers that waited for a replica, and seconds that they waited
    driver_chooses: bool = False  # MongoDB
    refusal: str | None = None  # why this process could not open or reach it


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMark:
    """A node in the strip of the overview."""

    cls: str
    icon: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A database in one line."""

    name: str
    engine: str
    said: str
    cls: str
    nodes: tuple[NodeMark, ...]
    pool: Markup
    pool_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPart:
    """A node on the page of the databases; *begins* is when the chart of its lag does."""

    begins: str
    name: str
    role: str
    icon: str
    cls: str
    said: str
    url: str
    position: str
    behind: str
    lag: Markup | None
    lag_text: str
    limit: str
    pool: Markup | None
    pool_text: str
    breaker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Where reads went."""

    name: str
    number: str
    drawing: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteShare:
    """Why reads went there."""

    cls: str
    word: str
    means: str
    number: str
    share: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabasePart:
    """A database on its page."""

    name: str
    state: tuple[str, str]
    bad: bool
    facts: tuple[str, ...]
    servers: tuple[ServerPart, ...]
    reads_text: str
    shares: tuple[Share, ...]
    reasons: tuple[RouteShare, ...]
    events: tuple[Happening, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabasesScreen:
    """The page."""

    headline: str
    lede: str
    parts: tuple[DatabasePart, ...]
    ends: str


def strip(databases: Sequence[DatabaseFacts]) -> tuple[Strip, ...]:
    """Return one line for each database."""
    return tuple(_line(one) for one in databases)


def databases_screen(
    databases: Sequence[DatabaseFacts], happenings: Sequence[Happening], now: datetime
) -> DatabasesScreen:
    """Return the page."""
    return DatabasesScreen(
        headline=headline(databases),
        lede=f"As this process sees them at {words.clock(now)} UTC. Lag and reads are of the last 15 minutes.",
        parts=tuple(_part(one, happenings, now) for one in databases),
        ends=words.hour(now),
    )


def headline(databases: Sequence[DatabaseFacts]) -> str:
    """Return what is wrong, or that nothing is."""
    wrong = trouble(databases)
    if wrong:
        return " ".join(wrong)
    replicas = any(one.replicated for one in databases)
    return f"All databases answer{', and every replica is fit to be read from' if replicas else ''}."


def trouble(databases: Sequence[DatabaseFacts], since: Mapping[str, datetime] | None = None) -> list[str]:
    """Return a sentence for each database that is not as it should be; *since* when, if that is known."""
    return [_sentence(one, since) for one in databases if state(one)[0] in {"failed", "warn"}]


def outages(databases: Sequence[DatabaseFacts], since: Mapping[str, datetime] | None = None) -> list[str]:
    """Return the sentence of each database in which no step can work."""
    return [_sentence(one, since) for one in databases if one.refusal is not None or _has_no_primary(one)]


def _sentence(one: DatabaseFacts, since: Mapping[str, datetime] | None) -> str:
    moment = (since or {}).get(one.name)
    when = "" if moment is None else f", since {words.clock(moment)}"
    told = " does not answer" if one.refusal is not None else f": {state(one)[1]}"
    return f"{one.name}{told}{when}."


def _has_no_primary(one: DatabaseFacts) -> bool:
    return one.replicated and not any(node.role == "primary" and node.failure is None for node in one.nodes)


def state(one: DatabaseFacts) -> tuple[str, str]:
    """Return how a database is, as a chip and its word."""
    if one.refusal is not None:
        return "failed", "does not answer"
    if _has_no_primary(one):
        return "failed", "no node takes writes"
    if not one.replicated:
        return "ok", "answers"
    replicas = [node for node in one.nodes if node.label != "primary"]
    if one.driver_chooses:
        silent = sum(node.failure is not None for node in one.nodes)
        told = f"{words.counted(silent, 'member')} {words.verb(silent, 'does', 'do')} not answer"
        return ("warn", told) if silent else ("ok", "all members answer")
    fit = [node for node in replicas if _is_fit(node, one)]
    if not replicas:
        return "ok", "all members answer"
    if not fit:
        return "failed", "no replica is fit, so reads go to the primary"
    away = len(replicas) - len(fit)
    if away:
        return "warn", f"{words.counted(away, 'replica')} {words.verb(away, 'is', 'are')} not read from"
    return "ok", "all nodes answer"


def _is_fit(node: NodeFacts, one: DatabaseFacts) -> bool:
    return node.failure is None and node.lag is not None and node.lag <= one.max_lag


def _line(one: DatabaseFacts) -> Strip:
    cls, said = state(one)
    pool = _shown_pool(one)
    return Strip(
        name=one.name,
        engine=f"{one.engine}, journal" if one.journal else one.engine,
        said=said,
        cls=f"t-{cls}",
        nodes=tuple(_mark(node, one) for node in one.nodes),
        pool=Markup() if pool is None else charts.pool(pool.used, pool.size, pool.more),
        pool_text=_pool_text(pool),
    )


def _shown_pool(one: DatabaseFacts) -> PoolFacts | None:
    return next((node.pool for node in one.nodes if node.label == "primary" and node.pool is not None), None)


def _pool_text(pool: PoolFacts | None) -> str:
    if pool is None:
        return "not measured"
    over = max(0, pool.used - pool.size)
    text = f"{min(pool.used, pool.size)} of {pool.size} in use"
    if over:
        text += f", {over} beyond"
    if pool.waiting is None:
        return text
    return f"{text}, {words.counted(pool.waiting, 'waits', 'wait') if pool.waiting else 'none waits'}"


def _mark(node: NodeFacts, one: DatabaseFacts) -> NodeMark:
    name = host(node.url)
    if node.failure is not None or (one.refusal is not None and len(one.nodes) == 1):
        return NodeMark(cls="gone", icon="gone", text=f"{name} does not answer")
    if node.label == "primary":
        return NodeMark(cls="primary", icon="primary", text=f"{name} primary" if one.replicated else name)
    if node.lag is None:
        if one.driver_chooses:
            return NodeMark(cls="", icon="replica", text=name)
        return NodeMark(cls="out", icon="replica", text=f"{name}, lag not known")
    if one.driver_chooses:  # the driver says whole seconds
        return NodeMark(cls="", icon="replica", text=f"{name} {_whole(node.lag)}")
    if not node.lag:
        return NodeMark(cls="", icon="replica", text=f"{name} not behind")
    behind = words.duration(node.lag)
    if node.lag > one.max_lag:
        return NodeMark(cls="out", icon="replica", text=f"{name} {behind} behind, over {one.max_lag:g} s")
    return NodeMark(cls="", icon="replica", text=f"{name} {behind} behind")


def _whole(seconds: float) -> str:
    return "under 1 s behind" if seconds < 1 else f"{seconds:.0f} s behind"


def _part(one: DatabaseFacts, happenings: Sequence[Happening], now: datetime) -> DatabasePart:
    total = sum(one.routed.values())
    mine = [event for event in happenings if event.database == one.name][:_EVENTS]
    facts = [one.engine, *(["journal"] if one.journal else [])]
    if one.replicated:
        facts.append(f"consistency {one.consistency}")
        facts.append("the driver chooses members" if one.driver_chooses else f"max_lag {one.max_lag:g} s")
        if not one.driver_chooses:
            facts.append(f"wait {one.wait * 1000:g} ms")
    cls = state(one)[0]
    return DatabasePart(
        name=one.name,
        state=state(one),
        bad=cls == "failed",
        facts=tuple(facts),
        servers=tuple(_server(node, one, now) for node in one.nodes),
        reads_text=_reads_text(one, total),
        shares=tuple(_shares(one)),
        reasons=tuple(_reasons(one, total)),
        events=tuple(mine),
    )


def _server(node: NodeFacts, one: DatabaseFacts, now: datetime) -> ServerPart:
    primary = node.label == "primary"
    icon = "gone" if node.failure is not None else "primary" if primary else "replica"
    cls = (
        "t-gone"
        if node.failure is not None
        else ""
        if primary or one.driver_chooses or _is_fit(node, one)
        else "t-warn"
    )
    drawing = None
    if node.history:
        label = f"Lag of {host(node.url)} over 15 minutes, limit {one.max_lag:g} s"
        drawing = charts.lag(node.history, one.max_lag, label)
    return ServerPart(
        begins=words.hour(now - timedelta(seconds=5 * len(node.history or ()))),
        name=host(node.url),
        role=node.label,
        icon=icon,
        cls=cls,
        said=_said(node, one),
        url=node.url,
        position=node.position or "not compared",
        behind=_asked(node),
        lag=drawing,
        lag_text=_lag_text(node, one),
        limit=f"limit {one.max_lag:g} s",
        pool=None if node.pool is None else charts.pool(node.pool.used, node.pool.size, node.pool.more),
        pool_text=_pool_text(node.pool),
        breaker=node.breaker,
    )


def _said(node: NodeFacts, one: DatabaseFacts) -> str:
    if node.failure is not None:
        return f"no answer: {node.failure}"
    zone = f", zone {node.zone}" if node.zone else ""
    quick = f", {words.duration(node.latency)}" if node.latency else ""
    if node.label == "primary":
        return f"takes all writes{quick}{zone}" if one.replicated else "the only node: reads and writes go here"
    if _is_fit(node, one) or one.driver_chooses:
        return f"answers{quick}{zone}"
    behind = "how far it is behind is not known" if node.lag is None else f"{words.duration(node.lag)} behind"
    return f"answers{quick}{zone}; not read from: {behind}"


def _asked(node: NodeFacts) -> str:
    return "" if node.asked_ago is None else f"asked {words.duration(node.asked_ago)} ago"


def _lag_text(node: NodeFacts, one: DatabaseFacts) -> str:
    if not one.replicated:
        return "No replicas, so there is no lag."
    if node.label == "primary":
        return "The primary: others are measured against it."
    if one.driver_chooses:
        return (
            "The driver says no more."
            if node.lag is None
            else f"{_whole(node.lag)}: the driver says whole seconds."
        )
    if node.failure is not None:
        return "no answer"
    if node.lag is None:
        return "lag not known yet"
    behind = f"{words.duration(node.lag)} behind" if node.lag else "not behind"
    return behind + ("" if node.history else "; its course is not measured")


def _reads_text(one: DatabaseFacts, total: int) -> str:
    if one.driver_chooses:
        return "The driver chooses the member; a member that is behind the bookmark waits by itself."
    if not one.replicated:
        return "All reads go to the only node."
    if not total:
        return "No read in the last 15 minutes."
    away = sum(number for (_, reason), number in one.routed.items() if reason == "no-replica")
    text = f"{words.number(total)} reads. {away / total * 100:.1f} % went to the primary for want of a replica."
    if one.waits is not None and one.waits[0]:
        count, seconds = one.waits
        text += (
            f" Since the start {words.counted(count, 'reader')} waited, {words.duration(seconds / count)} each."
        )
    return text


def _shares(one: DatabaseFacts) -> list[Share]:
    found = []
    for node in one.nodes:
        parts = [
            (float(number), _REASONS.get(reason, ("r-fresh", ""))[0], reason)
            for (name, reason), number in sorted(one.routed.items())
            if name == node.url
        ]
        total = sum(number for number, _, _ in parts)
        if total:
            shares = ", ".join(f"{number / total * 100:.0f} % {reason}" for number, _, reason in parts)
            name = host(node.url)
            drawing = charts.share(parts, f"{name}: {shares}")
            found.append(Share(name=name, number=words.number(total), drawing=drawing))
    return found


def _reasons(one: DatabaseFacts, total: int) -> list[RouteShare]:
    numbers: dict[str, int] = {}
    for (_, reason), number in one.routed.items():
        numbers[reason] = numbers.get(reason, 0) + number
    return [
        RouteShare(
            cls=cls,
            word=reason,
            means=means,
            number=words.number(numbers[reason]),
            share=_percent(numbers[reason], total),
        )
        for reason, (cls, means) in _REASONS.items()
        if reason in numbers
    ]


def _percent(part: int, total: int) -> str:
    return f"{part / total * 100:.1f} %" if total else ""


def finite(seconds: float) -> float | None:
    """Return *seconds*, or None for what is not known."""
    return seconds if math.isfinite(seconds) else None

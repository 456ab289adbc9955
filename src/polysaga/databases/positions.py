"""Positions: how far a server has got. Pure values: compared, merged, encoded, decoded strictly.

The primary owns the truth; its positions never fall within an epoch. A position is captured there *after* COMMIT,
so everything committed before is at or below it. A replica has *reached* a position if it has replayed all of it.
Its replayed position never falls while it runs, so an old sample errs towards the primary, never towards a stale
read. (After a restart it may be lower for a while: each new connection is asked, see `routing.router`.)

An epoch is a lineage (a cluster: PostgreSQL's system identifier) and a number that rises with each promotion
(its timeline). Positions of different lineages say nothing about each other. A position of a later epoch is past
an equal one of an earlier epoch, because a promoted server continues its history. A server that is still in an
earlier epoch has reached nothing of a later one: it may have left the common history earlier.

The text has only characters of a cookie's value, and `parse(text).text == text`; nothing else is accepted. So a
client's text can be decoded and encoded again, and is never pasted into a statement.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Intervals: TypeAlias = tuple[tuple[int, int], ...]  # both ends included, sorted, with gaps between

_LARGEST = 2**64 - 1  # of an LSN and of a sequence number
_LONGEST = 4096  # characters; a longer text is refused


@dataclass(frozen=True, slots=True)
class Epoch:
    """A cluster and how often its history has forked; the default is for databases without epochs."""

    lineage: str = ""  # letters, digits; empty if unknown
    number: int = 0

    def has_reached(self, required: "Epoch") -> bool:
        """Return whether this is the same or a later epoch of the same cluster."""
        return self.number >= required.number and self.lineage == required.lineage

    @property
    def text(self) -> str:
        """The epoch as text."""
        return f"{self.lineage}.{self.number}"


@dataclass(frozen=True, slots=True)
class Lsn:
    """A place in PostgreSQL's write-ahead log."""

    value: int
    epoch: Epoch = Epoch()

    @property
    def text(self) -> str:
        """E.g. `pg:7391.2:16/B374D848`."""
        return f"pg:{self.epoch.text}:{self.literal}"

    @property
    def literal(self) -> str:
        """The place as the server writes it, e.g. `16/B374D848`."""
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def reached(self, required: "Position") -> bool:
        """Return whether a server that stands here has replayed all of *required*."""
        return (
            type(required) is Lsn
            and self.value >= required.value
            and (self.epoch is required.epoch or self.epoch.has_reached(required.epoch))
        )

    def comparable(self, other: "Position") -> bool:
        """Return whether the two belong to the same cluster."""
        return type(other) is Lsn and self.epoch.lineage == other.epoch.lineage

    def beyond(self) -> "Lsn":
        """Return a place of this epoch that no server ever reaches."""
        return Lsn(_LARGEST, self.epoch)

    def merged(self, other: "Position") -> "Lsn":
        """Return the smallest position past both; raise ValueError if they are not comparable."""
        if not isinstance(other, Lsn) or not self.comparable(other):
            raise _incomparable(self, other)
        return Lsn(max(self.value, other.value), _later(self.epoch, other.epoch))


@dataclass(frozen=True, slots=True)
class Gtids:
    """MySQL's set of executed transactions: for each source (a UUID, or UUID and tag) the intervals."""

    sources: Mapping[str, Intervals]
    epoch: Epoch = Epoch()

    @property
    def text(self) -> str:
        """E.g. `my:.0:3e11fa47-71ca-11e1-9e33-c80aa9429562~1-5~7-7`; sources are joined by `+`."""
        return f"my:{self.epoch.text}:" + "+".join(
            "~".join([source.replace(":", "*"), *(f"{low}-{high}" for low, high in intervals)])
            for source, intervals in sorted(self.sources.items())
        )

    @property
    def literal(self) -> str:
        """The set as the server writes it."""
        return ",".join(
            ":".join([source, *(f"{low}-{high}" for low, high in intervals)])
            for source, intervals in sorted(self.sources.items())
        )

    def reached(self, required: "Position") -> bool:
        """Return whether a server that stands here has executed all of *required*."""
        return (
            self.comparable(required)
            and self.epoch.number >= required.epoch.number
            and isinstance(required, Gtids)
            and all(_covers(self.sources.get(source, ()), ranges) for source, ranges in required.sources.items())
        )

    def comparable(self, other: "Position") -> bool:
        """Return whether the two belong to the same cluster."""
        return type(other) is Gtids and self.epoch.lineage == other.epoch.lineage

    def succeeds(self, other: "Position") -> bool:
        """Return whether this has all of *other* and more: a takeover, if *other* was reported later."""
        return self.reached(other) and not other.reached(self)

    def beyond(self) -> "Gtids":
        """Return a set of this epoch that no server ever executes; short, however many sources there are."""
        return Gtids(dict.fromkeys(sorted(self.sources)[:1], ((1, _LARGEST),)), self.epoch)

    def merged(self, other: "Position") -> "Gtids":
        """Return the union; raise ValueError if they are not comparable."""
        if not isinstance(other, Gtids) or not self.comparable(other):
            raise _incomparable(self, other)
        sources = {
            source: _union(self.sources.get(source, ()), other.sources.get(source, ()))
            for source in self.sources.keys() | other.sources.keys()
        }
        return Gtids(sources, _later(self.epoch, other.epoch))


@dataclass(frozen=True, slots=True)
class MariaGtid:
    """MariaDB's position: for each replication domain the server that wrote last, and its sequence number."""

    domains: Mapping[int, tuple[int, int]]
    epoch: Epoch = Epoch()

    @property
    def text(self) -> str:
        """E.g. `ma:.0:0-1-88`; domains are joined by `+`."""
        return f"ma:{self.epoch.text}:" + "+".join(self._written)

    @property
    def literal(self) -> str:
        """The position as the server writes it, e.g. `0-1-88,1-1-3`."""
        return ",".join(self._written)

    @property
    def _written(self) -> list[str]:
        return [f"{domain}-{server}-{number}" for domain, (server, number) in sorted(self.domains.items())]

    def reached(self, required: "Position") -> bool:
        """Return whether a server that stands here has executed all of *required*."""
        if type(required) is not MariaGtid or not self.comparable(required):
            return False
        if self.epoch.number < required.epoch.number:
            return False
        here = self.domains
        return all(
            domain in here and here[domain][1] >= number for domain, (_, number) in required.domains.items()
        )

    def comparable(self, other: "Position") -> bool:
        """Return whether the two belong to the same cluster."""
        return type(other) is MariaGtid and self.epoch.lineage == other.epoch.lineage

    def succeeds(self, other: "Position") -> bool:
        """Return whether another server has written on from where *other* was: it has taken over."""
        return (
            type(other) is MariaGtid
            and self.reached(other)
            and any(
                number > other.domains[domain][1] and server != other.domains[domain][0]
                for domain, (server, number) in self.domains.items()
                if domain in other.domains
            )
        )

    def beyond(self) -> "MariaGtid":
        """Return a position of this epoch that no server ever reaches; short, however many domains there are."""
        first = sorted(self.domains)[:1]
        return MariaGtid({domain: (self.domains[domain][0], _LARGEST) for domain in first}, self.epoch)

    def merged(self, other: "Position") -> "MariaGtid":
        """Return the later one of every domain; raise ValueError if they are not comparable."""
        if not isinstance(other, MariaGtid) or not self.comparable(other):
            raise _incomparable(self, other)
        domains = dict(self.domains)
        for domain, (server, number) in other.domains.items():
            if domain not in domains or domains[domain][1] < number:
                domains[domain] = (server, number)
        return MariaGtid(domains, _later(self.epoch, other.epoch))


@dataclass(frozen=True, slots=True)
class ClusterTime:
    """MongoDB's operation time: seconds since 1970 and a counter within the second."""

    seconds: int
    increment: int
    epoch: Epoch = Epoch()

    @property
    def text(self) -> str:
        """E.g. `mg:.0:1763818800-3`."""
        return f"mg:{self.epoch.text}:{self.literal}"

    @property
    def literal(self) -> str:
        """The two numbers, e.g. `1763818800-3`."""
        return f"{self.seconds}-{self.increment}"

    def reached(self, required: "Position") -> bool:
        """Return whether a server that stands here has applied all of *required*."""
        return (
            type(required) is ClusterTime
            and (self.seconds, self.increment) >= (required.seconds, required.increment)
            and self.epoch.has_reached(required.epoch)
        )

    def comparable(self, other: "Position") -> bool:
        """Return whether the two belong to the same cluster."""
        return type(other) is ClusterTime and self.epoch.lineage == other.epoch.lineage

    def beyond(self) -> "ClusterTime":
        """Return a time of this epoch that no server ever reaches."""
        return ClusterTime(2**32 - 1, 2**32 - 1, self.epoch)

    def merged(self, other: "Position") -> "ClusterTime":
        """Return the later of the two; raise ValueError if they are not comparable."""
        if not isinstance(other, ClusterTime) or not self.comparable(other):
            raise _incomparable(self, other)
        last = max((self.seconds, self.increment), (other.seconds, other.increment))
        return ClusterTime(*last, _later(self.epoch, other.epoch))


Position: TypeAlias = Lsn | Gtids | MariaGtid | ClusterTime


def parse(text: str) -> Position:
    """Decode *text*, a position's `text`; raise ValueError for anything else."""
    if len(text) > _LONGEST:
        raise ValueError("a position is not that long")
    kind, _, rest = text.partition(":")
    epoch, _, place = rest.partition(":")
    if kind not in _PARSERS:
        raise ValueError(f"'{kind[:10]}' is not a kind of position")
    found = _PARSERS[kind](place, _epoch(epoch))
    if found.text != text:
        raise ValueError("a position is written in one way only")
    return found


def parse_lsn(literal: str, epoch: Epoch = Epoch()) -> Lsn:
    """Decode what PostgreSQL writes as `16/B374D848`; raise ValueError for anything else."""
    match = _LSN(literal)
    if match is None:
        raise ValueError("not a log sequence number")
    return Lsn(int(match[1], 16) << 32 | int(match[2], 16), epoch)


def parse_gtids(literal: str) -> Gtids:
    """Decode what MySQL writes as `gtid_executed`, tags included; raise ValueError for anything else."""
    sources: dict[str, Intervals] = {}
    for one in filter(None, (part.strip() for part in literal.split(","))):
        uuid, *parts = one.lower().split(":")
        if not _UUID(uuid):
            raise ValueError("not a set of global transaction ids")
        source = uuid
        for part in parts:
            if _TAG(part):
                source = f"{uuid}:{part}"
            else:
                sources[source] = _union(sources.get(source, ()), (_interval(part),))
    return Gtids(sources)


def parse_maria_gtid(literal: str, epoch: Epoch = Epoch()) -> MariaGtid:
    """Decode what MariaDB writes as `0-1-88,1-1-3`; raise ValueError for anything else."""
    domains: dict[int, tuple[int, int]] = {}
    for one in filter(None, (part.strip() for part in literal.split(","))):
        match = _MARIA(one)
        if match is None:
            raise ValueError("not a MariaDB transaction id")
        domain, server, number = (_number(part) for part in match.groups())
        if domain not in domains or domains[domain][1] < number:
            domains[domain] = (server, number)
    return MariaGtid(domains, epoch)


_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII).fullmatch
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}").fullmatch
_MARIA = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,20})", re.ASCII).fullmatch
_INTERVAL = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", re.ASCII).fullmatch
_TIME = re.compile(r"([0-9]{1,10})-([0-9]{1,10})", re.ASCII).fullmatch
_EPOCH = re.compile(r"([0-9A-Za-z]{0,40})\.([0-9]{1,10})", re.ASCII).fullmatch


def _epoch(text: str) -> Epoch:
    match = _EPOCH(text)
    if match is None:
        raise ValueError("not an epoch")
    return Epoch(match[1], int(match[2]))


def _parse_gtids(place: str, epoch: Epoch) -> Gtids:
    sources: dict[str, Intervals] = {}
    for one in filter(None, place.split("+")):
        sources |= parse_gtids(one.replace("*", ":").replace("~", ":")).sources
    return Gtids(sources, epoch)


def _parse_time(place: str, epoch: Epoch) -> ClusterTime:
    match = _TIME(place)
    if match is None or max(int(match[1]), int(match[2])) >= 2**32:
        raise ValueError("not a cluster time")
    return ClusterTime(int(match[1]), int(match[2]), epoch)


_PARSERS: Mapping[str, Callable[[str, Epoch], Position]] = {
    "pg": parse_lsn,
    "my": _parse_gtids,
    "ma": lambda place, epoch: parse_maria_gtid(place.replace("+", ","), epoch),
    "mg": _parse_time,
}


def _interval(text: str) -> tuple[int, int]:
    match = _INTERVAL(text)
    if match is None:
        raise ValueError("not an interval of transactions")
    low = _number(match[1])
    high = low if match[2] is None else _number(match[2])
    if not 0 < low <= high:
        raise ValueError("an interval of transactions begins at 1 and does not end before it begins")
    return low, high


def _number(text: str) -> int:
    number = int(text)
    if number > _LARGEST:
        raise ValueError("a sequence number has 64 bits")
    return number


def _covers(have: Intervals, need: Intervals) -> bool:
    return all(any(low <= first and last <= high for low, high in have) for first, last in need)


def _union(one: Intervals, other: Intervals) -> Intervals:
    whole: list[tuple[int, int]] = []
    for low, high in sorted((*one, *other)):
        if whole and low <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(whole[-1][1], high))
        else:
            whole.append((low, high))
    return tuple(whole)


def _later(one: Epoch, other: Epoch) -> Epoch:
    return one if one.number >= other.number else other


def _incomparable(one: Position, other: Position) -> ValueError:
    return ValueError(f"positions of different clusters or kinds: {one.text}, {other.text}")

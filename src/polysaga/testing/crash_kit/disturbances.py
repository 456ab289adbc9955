"""Disturbances as data: points of a run, acts at a point, and cases made of both.

A *work* is one transaction of an owner, named after what it does: `confirm_order`, `undo reserve_stock`,
`journal.finish`. It has these *stages*:

    begin     nothing of the transaction has been sent
    between   a statement of the user's code has been answered, the next one has not been sent (SQL only)
    before    everything is written, COMMIT has not been sent
    at        the database has committed, the reply has not been read
    after     the reply has been read

Everything here prints as one word, so a case can be repeated by its name.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Stage(StrEnum):
    """How far a work has got."""

    BEGIN = "begin"
    BETWEEN = "between"
    BEFORE = "before"
    AT = "at"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Point:
    """A stage of the *nth* work of that name by *owner*."""

    owner: str
    stage: Stage
    work: str
    nth: int = 1

    def __str__(self) -> str:
        again = f"#{self.nth}" if self.nth > 1 else ""
        return f"{self.owner}:{self.stage}:{self.work.replace(' ', '_')}{again}"


@dataclass(frozen=True, slots=True)
class Kill:
    """The owner's process ends; its connections are cut.

    *overdue*: the deadline of the saga passes before another owner claims it.
    """

    point: Point
    overdue: bool = False

    def __str__(self) -> str:
        return f"kill@{self.point}{',overdue' if self.overdue else ''}"


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The connection is lost at COMMIT; *happened*: the database had committed by then."""

    point: Point
    happened: bool

    def __str__(self) -> str:
        return f"{'lose-reply' if self.happened else 'lose-commit'}@{self.point}"


class Until(StrEnum):
    """When a frozen owner resumes."""

    REST = "rest"  # the next owner has brought the saga to rest
    TOGETHER = "together"  # the next owner begins the same work
    OVERTAKEN = "overtaken"  # the next owner has just done the same work
    TOUCHED = "touched"  # the next owner needs the database of that work


@dataclass(frozen=True, slots=True)
class Freeze:
    """The owner's process freezes, believing that the saga is its own; another owner takes over.

    *ended*: the server has ended its open transaction meanwhile. *refused*: the first step that the next owner
    runs refuses, so the next owner compensates. *cancelled*: a client cancels the saga through the next owner.
    *overdue*: the deadline of the saga passes, so the next owner undoes it.
    """

    point: Point
    until: Until
    ended: bool = False
    refused: bool = False
    cancelled: bool = False
    overdue: bool = False

    def __str__(self) -> str:
        named = {
            "ended": self.ended,
            "refused": self.refused,
            "cancelled": self.cancelled,
            "overdue": self.overdue,
        }
        options = "".join(f",{name}" for name, chosen in named.items() if chosen)
        return f"freeze@{self.point}:{self.until}{options}"


@dataclass(frozen=True, slots=True)
class Hold:
    """A branch stops at the point until its owner cancels it."""

    point: Point

    def __str__(self) -> str:
        return f"hold@{self.point}"


@dataclass(frozen=True, slots=True)
class Cancel:
    """A client cancels the saga in the process that drives it."""

    point: Point

    def __str__(self) -> str:
        return f"cancel@{self.point}"


@dataclass(frozen=True, slots=True)
class Deadline:
    """The deadline of the saga passes while its owner drives it."""

    point: Point

    def __str__(self) -> str:
        return f"deadline@{self.point}"


@dataclass(frozen=True, slots=True)
class Beside:
    """A second saga of the same definition runs in its own process while the owner stops at the point.

    The owner resumes when the second saga is at rest, or waits for something that the first one holds.
    """

    point: Point

    def __str__(self) -> str:
        return f"beside@{self.point}"


class Kind(StrEnum):
    """How the code of a step fails."""

    REFUSED = "refused"
    TRANSIENT = "transient"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class Fail:
    """The user's code of *work* fails after its writes; once, or until nothing moves any more."""

    work: str
    kind: Kind
    once: bool

    def __str__(self) -> str:
        return f"fail@{self.work.replace(' ', '_')}:{self.kind}{',once' if self.once else ''}"


Act: TypeAlias = Kill | Disconnect | Freeze | Hold | Cancel | Deadline | Beside | Fail


@dataclass(frozen=True, slots=True)
class Plot:
    """A run without disturbance: which step refuses, if any, and the order in which branches take turns."""

    refused: str | None = None
    turned: bool = False

    def __str__(self) -> str:
        told = "forward" if self.refused is None else f"refused-in-{self.refused}"
        return f"{told}{'~' if self.turned else ''}"


@dataclass(frozen=True, slots=True)
class Case:
    """One run: a plot and what disturbs it."""

    plot: Plot
    acts: tuple[Act, ...] = ()

    def __str__(self) -> str:
        return "/".join([str(self.plot), *map(str, self.acts)])

    @property
    def overdue(self) -> bool:
        """Return whether the deadline of the saga passes; a saga without a deadline gets one."""
        return any(_overdue(act) for act in self.acts)

    @property
    def group(self) -> str:
        """Return the kind of disturbance, for counting."""
        if not self.acts:
            return "undisturbed"
        names = {
            Kill: "kill",
            Disconnect: "lost reply",
            Freeze: "zombie",
            Cancel: "cancel",
            Deadline: "deadline",
            Hold: "cancelled branch",
            Beside: "beside another saga",
            Fail: "failure",
        }
        first = "deadline" if self.overdue else names[type(self.acts[0])]
        return first if len(self.acts) == 1 else f"{first} in recovery"


def _overdue(act: Act) -> bool:
    return isinstance(act, Deadline) or (isinstance(act, Kill | Freeze) and act.overdue)

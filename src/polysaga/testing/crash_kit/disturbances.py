"""What can be disturbed, and how, as data: points of a run, acts at a point, cases made of both.

A *work* is one transaction of an owner, named by what it does: `confirm_order`, `undo reserve_stock`,
`journal.finish`. It has these *stages*:

    begin     nothing of the transaction has been sent
    between   a statement of the user's code has been answered, the next one is not sent (SQL only)
    before    everything is written, COMMIT is not sent
    at        the database has committed, the reply has not been read
    after     the reply has been read

Everything here prints as one word, so that a case can be repeated by its name.
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
    """A stage of the *nth* work of that name in the hands of *owner*."""

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
    """The connection is lost at COMMIT; *happened* tells whether the database had committed by then."""

    point: Point
    happened: bool

    def __str__(self) -> str:
        return f"{'lose-reply' if self.happened else 'lose-commit'}@{self.point}"


class Until(StrEnum):
    """When a frozen owner goes on."""

    REST = "rest"  # the next owner has brought the saga to rest
    TOGETHER = "together"  # the next owner begins the same work
    OVERTAKEN = "overtaken"  # the next owner has just done the same work
    TOUCHED = "touched"  # the next owner needs the database of that work


@dataclass(frozen=True, slots=True)
class Freeze:
    """The owner's process stands still, believing that the saga is its own; another one takes over.

    *ended*: the server has ended its open transaction meanwhile. *refused*: the step that the next owner runs
    first refuses, so that it compensates. *cancelled*: somebody cancels the saga through the next owner.
    *overdue*: the deadline of the saga passes, so that the next owner undoes it.
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
    """A branch stands at the point until its owner cancels it."""

    point: Point

    def __str__(self) -> str:
        return f"hold@{self.point}"


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody cancels the saga in the process that drives it."""

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
    """A second saga of the same definition runs in a process of its own while the owner stands at the point.

    The owner goes on when the second one is at rest, or waits for what the first one holds.
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
    """The user's code of *work* fails after it has written; once, or until the saga has come to a halt."""

    work: str
    kind: Kind
    once: bool

    def __str__(self) -> str:
        return f"fail@{self.work.replace(' ', '_')}:{self.kind}{',once' if self.once else ''}"


Act: TypeAlias = Kill | Disconnect | Freeze | Hold | Cancel | Deadline | Beside | Fail


@dataclass(frozen=True, slots=True)
class Plot:
    """A run before it is disturbed: which step refuses, if any, and in which order branches take their turns."""

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
        """Tell whether the deadline of the saga passes; without one it gets one."""
        return any(_overdue(act) for act in self.acts)

    @property
    def group(self) -> str:
        """What kind of disturbance it is, for counting."""
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

"""What the databases hold and what everybody believes: the states of the model.

One letter per step, in an owner's memory (NOTHING: not known) and in the ledgers (NOTHING: no row). Plain text,
because hashing members of an enum would be most of the time of a search.
"""

from typing import NamedTuple

ACTIVE, DONE, COMPENSATED, BLOCKED, STUCK, NOTHING = "A", "D", "C", "B", "S", "."
RUNNING, COMPLETING, COMPENSATING, ATTENTION = "running", "completing", "compensating", "needs_attention"
FINAL = ("completed", "compensated")
ABSENT, GONE = "absent", "gone"  # no journal row: not yet, or not any more
LIVE = (RUNNING, COMPLETING, COMPENSATING)
NOBODY = 0

# What was said to callers, and what happened once and may not happen again.
TOLD_COMPLETED = 1
TOLD_UNDONE = 2  # also who cancelled, as soon as the saga is certain to be undone
BY_PERSON = 4  # a person decided how the saga rests
CANCELLED = 8
FAILED_OVER = 16
AGED = 32  # more than the fence has passed since the saga came to rest
USURPED = 64  # a process without the claim has changed the journal
BORN_ALL_THE_SAME = 128  # after its caller had heard that it was not started
HANGS = 256  # an owner has nothing to do and no end
UNDONE_BY_HAND = 512  # in whatever order a person liked
TOLD_ABSENT = 1024  # a caller was told that its saga was not started; times the token of its process


class Row(NamedTuple):
    """The journal row."""

    status: str
    epoch: int
    holder: int  # who has the claim
    parked_from: str = ""
    by_hand: bool = False  # a person has undone the fused first step


class Commit(NamedTuple):
    """One transaction that a process sends to one database."""

    kind: str
    epoch: int
    token: int
    step: int = -1
    expected: str = ""
    status: str = ""


class Owner(NamedTuple):
    """What one process believes; it never moves again if it was killed."""

    epoch: int
    token: int
    status: str
    marks: str
    failed: bool = False
    phase: str = ""  # "starts", "was refused", "takes stock", or nothing: drives
    called: frozenset[int] = frozenset()  # calls that may have happened outside and are not settled
    unsure: bool = False  # a start was sent and no reply came


class Person(NamedTuple):
    """A person who has claimed the saga and is writing ledger rows."""

    epoch: int
    action: str
    going: str
    expected: str
    steps: tuple[int, ...]
    todo: tuple[int, ...]
    seen: frozenset[int]  # the steps that were done when the person looked


class State(NamedTuple):
    """The databases, everybody who owned the saga, and the commits that are on their way."""

    row: Row
    ledger: str
    effects: tuple[int, ...]
    owners: tuple[Owner, ...]
    late: frozenset[Commit] = frozenset()  # sent; the reply was lost; may still land
    flags: int = 0
    claims: int = 1  # how many claims there were: the next one's token
    person: Person | None = None
    past: frozenset[Row] = frozenset()  # what an asynchronous replica of the journal may fall back to

    def with_effect(self, step: int, change: int) -> "State":
        """Return the state after *step* happened or was undone."""
        if not change:
            return self
        effects = list(self.effects)
        effects[step] += change
        return self._replace(effects=tuple(effects))

    def with_row(self, step: int, letter: str) -> "State":
        """Return the state with another ledger row of *step*."""
        return self._replace(ledger=changed(self.ledger, step, letter))

    def flagged(self, flag: int) -> "State":
        """Return the state in which *flag* has happened."""
        return self if self.flags & flag == flag else self._replace(flags=self.flags | flag)


def changed(letters: str, place: int, letter: str) -> str:
    """Return *letters* with another one at *place*."""
    return letters[:place] + letter + letters[place + 1 :]

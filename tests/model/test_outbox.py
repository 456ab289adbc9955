"""Starts through an outbox: the caller's commit, two drains that may die or sleep between any two moves, removal.

The transaction that carries the start commits or not. A drain reads the outbox, inserts the journal row unless it
exists, and deletes the outbox row; it may stop after each, or sleep for as long as it likes. The saga ends
at any time after its birth; when everything has grown old retention removes it. From a little before that on no
insert is accepted: a start that is not in the journal by then is parked in its outbox, for it may have been there.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest


class State(NamedTuple):
    """The outbox, the journal, and where each drain stands: idle, has read, has inserted or thinks so."""

    started: bool = False  # the caller's transaction has committed
    waiting: bool = False  # there is an outbox row
    parked: bool = False  # it has a reason why it is not moved
    old: bool = False  # nearly as long as sagas are kept has passed since the caller's commit
    journal: str = ""  # no row, running, at rest; gone
    births: int = 0
    drains: tuple[str, str] = ("idle", "idle")


def moves(state: State, planted: str) -> Iterator[tuple[str, State]]:
    """Everything that can happen next."""
    if not state.started:
        yield "the caller commits", state._replace(started=True, waiting=True)
        if planted == "the outbox row in a transaction of its own":
            yield "the outbox row is written", state._replace(waiting=True)
    if state.journal == "running":
        yield "the saga comes to rest", state._replace(journal="at rest")
    if state.started and not state.old:
        yield "time passes", state._replace(old=True)
    if state.journal == "at rest" and (state.old or planted == "retention does not wait"):
        yield "the saga is removed", state._replace(journal="")
    fenced = state.old and not state.journal and planted != "inserts have no fence"
    for place, stands in enumerate(state.drains):

        def at(after: str, state: State = state, place: int = place) -> State:
            drains = (after, state.drains[1]) if place == 0 else (state.drains[0], after)
            return state._replace(drains=drains)

        if stands == "idle" and state.waiting and not state.parked:
            yield f"{place} reads", at("read")
        elif stands == "read" and planted == "delete before insert":
            yield f"{place} deletes", at("deleted")._replace(waiting=False)
        elif stands in {"read", "deleted"} and fenced:
            yield f"{place} parks", at("idle")._replace(parked=state.waiting)
        elif stands in {"read", "deleted"}:
            after = at("inserted")
            born = after._replace(journal="running", births=state.births + 1)
            yield f"{place} inserts", born if not state.journal or planted == "insert anyway" else after
        elif stands == "inserted":
            yield f"{place} deletes", at("idle")._replace(waiting=False, parked=False)
        if stands != "idle":
            yield f"{place} dies", at("idle")


def wrong(state: State) -> str | None:
    """Which promise *state* breaks."""
    if state.births > 1:
        return "a saga was started twice"
    if state.births and not state.started:
        return "a saga was started by a transaction that did not commit"
    if state.started and not state.births and not state.waiting and "deleted" not in state.drains:
        return "a start is lost"
    return None


def search(planted: str = "") -> tuple[str | None, tuple[str, ...], int]:
    """Visit every state, breadth first; return the first that is wrong, the way there, and how many there are."""
    paths: dict[State, tuple[str, ...]] = {State(): ()}
    for state in (queue := [State()]):
        if (found := wrong(state)) is not None:
            return found, paths[state], len(paths)
        for label, following in moves(state, planted):
            if following not in paths:
                paths[following] = (*paths[state], label)
                queue.append(following)
    return None, (), len(paths)


def test_a_start_in_an_outbox_happens_once_if_and_only_if_its_transaction_commits() -> None:
    broken, path, states = search()
    assert (broken, path) == (None, ())
    assert states > 60


@pytest.mark.parametrize(
    ("planted", "broken"),
    [
        ("delete before insert", "a start is lost"),
        ("insert anyway", "a saga was started twice"),
        ("retention does not wait", "a saga was started twice"),
        ("inserts have no fence", "a saga was started twice"),
        (
            "the outbox row in a transaction of its own",
            "a saga was started by a transaction that did not commit",
        ),
    ],
)
def test_a_planted_mistake_in_the_outbox_is_found(planted: str, broken: str) -> None:
    assert search(planted)[0] == broken

"""Breadth first through every state that can be reached."""

from collections import deque
from collections.abc import Collection
from functools import cache
from typing import NamedTuple

from tests.model.setting import Setting
from tests.model.states import State
from tests.model.world import World
from tests.unit.shapes import Planned, definition_of


class Found(NamedTuple):
    """How a search ended: what was wrong and the shortest way there, or how many states are fine."""

    wrong: str | None
    path: tuple[str, ...]
    states: int
    seen: frozenset[str]  # the names of all moves


@cache
def search(
    steps: tuple[Planned, ...],
    powers: Collection[str] = (),
    *,
    planted: str = "",
    claims: int = 3,
    late: int = 1,
    forgetful: bool = True,
    ignoring: str = "",
) -> Found:
    """Visit every state; stop at the first that breaks a promise, unless it is the one to be ignored."""
    setting = Setting(
        definition_of(*steps), powers=powers, claims=claims, late=late, planted=planted, forgetful=forgetful
    )
    world = World(setting)
    start = world.born()
    came: dict[State, tuple[str, State] | None] = {start: None}
    queue, labels = deque([start]), set[str]()
    while queue:
        state = queue.popleft()
        wrong = world.wrong(state)
        if wrong not in {None, ignoring}:
            return Found(wrong, _path(came, state), len(came), frozenset(labels))
        for label, following in world.moves(state):
            labels.add(label)
            if following not in came:
                came[following] = label, state
                queue.append(following)
    return Found(None, (), len(came), frozenset(labels))


def _path(came: dict[State, tuple[str, State] | None], state: State) -> tuple[str, ...]:
    labels: list[str] = []
    step = came[state]
    while step is not None:
        labels.append(step[0])
        step = came[step[1]]
    return tuple(reversed(labels))

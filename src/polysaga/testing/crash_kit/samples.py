"""What a sample takes: each kind of act at each kind of point of each step, before anything is repeated.

A mistake in one step shows only when that step is disturbed, often by a few kinds of acts. So the cases are dealt
like cards from many piles, a pile for each kind of act, stage and work. The pile comes next that was taken from
least; among equals the one whose work has met this kind of act least, then the one whose kind and work were seen
least in all. What the journal writes by itself is Polysaga's code and not the user's: it comes one round later.
"""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from polysaga.testing.crash_kit.disturbances import Beside, Case, Fail, Freeze, Kill


@dataclass(frozen=True, slots=True)
class _Pile:
    kind: str
    stage: str
    work: str


def dealt(cases: Sequence[Case], steps: Collection[str], chance: random.Random) -> Iterator[Case]:
    """Yield all *cases* in the order in which a sample takes them; *steps* are the names of the user's steps."""
    piles: dict[_Pile, list[Case]] = {}
    for case in chance.sample(cases, len(cases)):
        piles.setdefault(_pile(case), []).append(case)
    for pile in piles.values():
        # With branches in their own order first: only of those the recovery is disturbed.
        pile.sort(key=lambda case: case.plot.turned, reverse=True)
    taken: Counter[object] = Counter()

    def turn(pile: _Pile) -> tuple[int, int, int]:
        late = pile.work.removeprefix("undo ") not in steps
        return (
            taken[pile] + late,
            taken[pile.kind, pile.work] + late,
            taken["kind", pile.kind] + taken["work", pile.work],
        )

    while piles:
        chosen = min(piles, key=turn)
        yield piles[chosen].pop()
        if not piles[chosen]:
            del piles[chosen]
        taken.update([chosen, (chosen.kind, chosen.work), ("kind", chosen.kind), ("work", chosen.work)])


def _pile(case: Case) -> _Pile:
    act = case.acts[-1]
    kind = str(act).partition("@")[0]
    if isinstance(act, Beside):
        kind = f"{kind} {case.plot}"  # what the first saga does after it makes the difference
    if isinstance(act, Fail):
        return _Pile(kind, "", act.work)
    overdue = isinstance(act, Kill | Freeze) and act.overdue
    return _Pile(f"{kind},overdue" if overdue else kind, act.point.stage, act.point.work)

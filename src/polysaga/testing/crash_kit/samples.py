"""The order of a sample: each kind of act at each kind of point of each step, before any repetition.

A mistake in one step shows only when that step is disturbed, often only by a few kinds of acts. So the cases are
dealt like cards from many piles, one for each kind of act, stage and work. The pile that was taken from least is
next. Ties go to the pile whose work has met this kind of act least, then to the one whose kind and work were
seen least in all. Writes of the journal by itself are Polysaga's code, not the user's: they come one round later.
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
    """Yield all *cases* in the order of a sample; *steps* are the names of the user's steps."""
    piles: dict[_Pile, list[Case]] = {}
    for case in chance.sample(cases, len(cases)):
        piles.setdefault(_pile(case), []).append(case)
    for pile in piles.values():
        # Cases with branches in their own order come first: only their recovery is disturbed as well.
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
        kind = f"{kind} {case.plot}"  # the cases differ by what the first saga does afterwards
    if isinstance(act, Fail):
        return _Pile(kind, "", act.work)
    overdue = isinstance(act, Kill | Freeze) and act.overdue
    return _Pile(f"{kind},overdue" if overdue else kind, act.point.stage, act.point.work)

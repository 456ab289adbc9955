"""A sample of crash cases takes each kind of disturbance of each step before it repeats one."""

import random
from itertools import islice

import pytest

from polysaga.testing.crash_kit.disturbances import Case, Disconnect, Fail, Kill, Kind, Plot, Point, Stage
from polysaga.testing.crash_kit.samples import dealt

STEPS = ("reserve", "charge")
WORKS = (*STEPS, "undo reserve", "journal.claim", "journal.finish")


def all_cases() -> list[Case]:
    found: list[Case] = []
    for plot in (Plot(), Plot("charge"), Plot("charge", turned=True)):
        for work in WORKS:
            for nth in (1, 2, 3):
                stages = (Stage.BEFORE, Stage.AT, Stage.AFTER)
                found += [Case(plot, (Kill(Point("A", stage, work, nth)),)) for stage in stages]
                before = Point("A", Stage.BEFORE, work, nth)
                found += [Case(plot, (Disconnect(before, happened=happened),)) for happened in (True, False)]
        found += [Case(plot, (Fail(step, kind, once=True),)) for step in STEPS for kind in Kind]
    return found


def sample(size: int | None, seed: int = 0) -> list[Case]:
    return list(islice(dealt(all_cases(), STEPS, random.Random(seed)), size))


def kind_and_work(case: Case) -> tuple[str, str]:
    (act,) = case.acts
    return type(act).__name__, act.work if isinstance(act, Fail) else act.point.work


def test_in_the_end_a_sample_is_everything() -> None:
    assert sorted(map(str, sample(None))) == sorted(map(str, all_cases()))


@pytest.mark.parametrize("seed", range(5))
def test_each_step_meets_each_kind_of_act_first(seed: int) -> None:
    # Three kinds with a point, lose-reply and lose-commit apart, at three works; and failures of two steps.
    met = {kind_and_work(case) for case in sample(3 * 3 + 2, seed)}
    assert {("Kill", work) for work in ("reserve", "charge", "undo reserve")} <= met
    assert {("Disconnect", work) for work in ("reserve", "charge", "undo reserve")} <= met
    assert {("Fail", step) for step in STEPS} <= met


@pytest.mark.parametrize("seed", range(5))
def test_no_point_of_a_step_is_repeated_before_all_were_disturbed(seed: int) -> None:
    kills = 3 * 3
    losses = 2 * 3
    taken = sample(kills + losses + len(STEPS), seed)
    points = [
        str(case).partition("/")[2].partition("#")[0] for case in taken if not isinstance(case.acts[0], Fail)
    ]
    steps = [point for point in points if "journal" not in point]
    assert len(steps) == len(set(steps))


def test_another_seed_takes_other_cases() -> None:
    assert sample(10, 1) == sample(10, 1)
    assert sample(10, 1) != sample(10, 2)

"""Whatever the shape of a correct saga, the crash kit finds nothing wrong with it."""

from typing import Any

import pytest

from tests.fixtures.shaped_programs import program_of
from tests.unit.shapes import HOME, OUTSIDE, Planned

A, B, C = HOME, "inventory", "points"


def side_by_side(*databases: str) -> list[Planned]:
    return [Planned(f"root_{number}", database, ()) for number, database in enumerate(databases, 1)]


def joined(roots: list[Planned], pivot: str) -> list[Planned]:
    return [*roots, Planned("decide", pivot, tuple(root.name for root in roots), "pivot")]


SHAPES = {
    "two-roots": joined(side_by_side(A, B), C),
    "two-roots-the-other-way-round": joined(side_by_side(B, A), A),
    "two-roots-in-one-database": joined(side_by_side(B, B), A),
    "two-roots-at-home": joined(side_by_side(A, A), B),
    "two-roots-without-a-pivot": side_by_side(A, B),
    "three-roots": side_by_side(A, B, C),
    "three-roots-in-one-database": side_by_side(B, B, B),
    "three-roots-two-of-them-at-home": joined(side_by_side(A, B, A), A),
    "a-call-beside-a-step": joined(side_by_side(A, OUTSIDE), B),
    "a-step-beside-a-call": joined(side_by_side(OUTSIDE, A), B),
    "two-calls": joined(side_by_side(OUTSIDE, OUTSIDE), A),
    "branches-behind-a-root": [
        Planned("first", A),
        Planned("left", B, ("first",)),
        Planned("right", B, ("first",)),
        Planned("decide", A, ("left", "right"), "pivot"),
        Planned("then_left", B, ("decide",), "retriable"),
        Planned("then_right", A, ("decide",), "retriable"),
    ],
    "one-pivot": [Planned("decide", B, kind="pivot")],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_correct_saga_is_never_condemned(shape: str, crash_kit: Any) -> None:
    program = program_of(SHAPES[shape])
    kit = crash_kit(program.sagas, setup=program.setup, sample=40)
    kit.prove(program.saga, program.an_input, invariant=program.all_or_nothing)

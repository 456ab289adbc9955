"""The states of a saga are drawn once, in the docs, and that is what the program does."""

import re
from pathlib import Path

from polysaga.cli.saga_tables import STYLES
from polysaga.sagas.driving.driver import TURNS, Turn
from polysaga.sagas.protocol.states import TRANSITIONS, Status

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "saga-states.md"


def drawn(number: int = 0) -> list[tuple[str, str]]:
    """Every arrow of a diagram, `[*]` included: the one of the states, or the one of the turns."""
    diagrams = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(diagrams) == 2
    diagram = diagrams[number]
    arrows = [re.fullmatch(r"    (\S+) --> (\S+?)(?:: .+)?", line) for line in diagram.splitlines()]
    assert all(arrows), "every line of the diagram is an arrow"
    return [(arrow[1], arrow[2]) for arrow in arrows if arrow]


def test_the_diagram_shows_exactly_the_transitions_of_the_program() -> None:
    table = {(before.value, after.value) for before, following in TRANSITIONS.items() for after in following}
    arrows = [arrow for arrow in drawn() if "[*]" not in arrow]
    assert set(arrows) == table
    assert len(arrows) == len(table)


def test_the_second_diagram_shows_exactly_the_turns_of_the_driving_task() -> None:
    table = {(before.value, after.value) for before, following in TURNS.items() for after in following}
    arrows = drawn(1)
    assert {arrow for arrow in arrows if "[*]" not in arrow} == table
    assert {arrow for arrow in arrows if "[*]" in arrow} == {("[*]", Turn.DRIVES), (Turn.DRIVES, "[*]")}


def test_the_diagram_begins_with_running_and_ends_in_the_final_states() -> None:
    assert {after for before, after in drawn() if before == "[*]"} == {Status.RUNNING}
    assert {before for before, after in drawn() if after == "[*]"} == {one for one in Status if one.final}


def test_every_state_has_a_colour_in_the_command_line() -> None:
    assert set(STYLES) == set(Status)


def test_every_state_is_explained_once() -> None:
    assert sorted(re.findall(r"^\*\*(\w+)\*\*: ", PAGE.read_text(), re.MULTILINE)) == sorted(Status)

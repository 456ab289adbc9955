"""What a service of the tests logs is looked through for mistakes in the program."""

from pathlib import Path

import pytest

from tests.fixtures.services import ServiceProcess


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        (
            "2026-01-02 10:00:00,000 ERROR a round failed: saga 1: AttributeError: 'list' object has no attribute",
            True,
        ),
        ("2026-01-02 10:00:00,000 WARNING saga 1: step two failed, attempt 1: TypeError: no", True),
        ("2026-01-02 10:00:00,000 ERROR a round failed: OperationalError: gone", False),
        ("2026-01-02 10:00:00,000 INFO saga 1 began", False),
        ("AttributeError: in the traceback of a driver", False),
    ],
)
def test_a_mistake_is_recognised(tmp_path: Path, line: str, is_one: bool) -> None:
    service = ServiceProcess({}, 1, tmp_path)
    assert service.mistakes == []
    service.log.write_text(line + "\n")
    assert service.mistakes == ([line] if is_one else [])

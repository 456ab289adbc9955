"""What tests hear from the processes that they start."""

import sys

from tests.fixtures.processes import begin, next_line

TWO_AT_ONCE = "import os, signal; os.write(1, 'alive\\nüber Nacht\\n'.encode()); signal.pause()"


def test_lines_that_a_process_prints_at_once_are_heard_one_by_one() -> None:
    with begin([sys.executable, "-c", TWO_AT_ONCE]) as process:
        assert next_line(process, "the first line") == "alive\n"
        assert next_line(process, "the second line") == "über Nacht\n"
        process.terminate()
        assert next_line(process, "the end") == ""

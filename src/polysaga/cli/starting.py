"""The first thing that the script `polysaga` runs: it loads the command line.

Loading takes a tenth of a second, and nothing is there yet that could answer Ctrl-C. So until then the signal ends
the process at once, as it ends any program that does not handle it. Python's own way is a traceback of imports.
"""

import signal
from collections.abc import Callable

from polysaga.loading import load_module


def main() -> None:
    """Load the command line and run the command that the arguments name; never returns."""
    _loaded()()


def _loaded() -> Callable[[], None]:
    # A background job of a shell ignores the signal, and goes on doing so.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return _command_line()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return _command_line()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _command_line() -> Callable[[], None]:
    run: Callable[[], None] = load_module("polysaga.cli.main").main
    return run

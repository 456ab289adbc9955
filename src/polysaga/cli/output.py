"""What a command prints: the reader may end first, the device may be full, and the encoding may lack signs.

The exit code says what a command has found, so no write raises. After the first one that fails the rest is
dropped, and the end of the command says so. A reader that has ended, as in `polysaga nodes | head -1`, wanted no
more: that is no failure. A sign that the encoding lacks is written as its escape.
"""

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class _Descriptor(io.FileIO):
    """A file descriptor that drops what cannot be written."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> Any:
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


class _Output(io.TextIOWrapper):
    """Standard output, or standard error, to which writing never fails."""

    def __init__(self, stream: TextIO) -> None:
        self.descriptor = _Descriptor(stream.fileno(), "w", closefd=False)
        # With PYTHONUNBUFFERED there is no buffer, and Python's own stream has none either.
        unbuffered = isinstance(stream.buffer, io.RawIOBase)
        super().__init__(
            cast(Any, self.descriptor) if unbuffered else io.BufferedWriter(self.descriptor),
            encoding=stream.encoding,
            errors="backslashreplace" if stream.errors in {"strict", "surrogateescape"} else stream.errors,
            line_buffering=bool(stream.line_buffering),
            write_through=unbuffered,
        )


@contextmanager
def printing() -> Iterator[None]:
    """Let nothing fail that the block prints; end with code 2 and one line if a device took not all of it."""
    sys.stdout, sys.stderr = _safe(sys.stdout, sys.__stdout__), _safe(sys.stderr, sys.__stderr__)
    try:
        yield
    except SystemExit:
        failure = dropped()
        if failure is None or failure.errno == errno.EPIPE:
            raise
        print(f"polysaga: the output cannot be written: {failure.strerror}", file=sys.stderr)
        sys.exit(2)


def dropped() -> OSError | None:
    """Return why what is printed is dropped; None if it arrives."""
    if not isinstance(sys.stdout, _Output):
        return None
    sys.stdout.flush()
    return sys.stdout.descriptor.failure


def _safe(stream: TextIO, own: TextIO | None) -> TextIO:
    # Python has no stream at all for a descriptor that was closed before it began.
    if own is None or stream is not own:
        return stream
    stream.flush()
    return _Output(stream)

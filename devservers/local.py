"""A server process of our own: made, started, stopped, killed.

The directory of a server holds `data`, `server.log` and, once `data` is complete, the file `complete`.
Without that file `data` is the rest of an interrupted set-up and is made again.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from devservers.accounts import launched, server_account
from devservers.server import Client, Server, ServerUnavailable
from polysaga.clock import Clock

_POLL = 0.05  # seconds between two questions to a server that comes up
_PATIENCE = 60.0  # seconds for a server to come up; a loaded machine replays a log slowly
_SET_UP_PATIENCE = 120.0  # seconds for a program that fills a data folder
_STOP_PATIENCE = 30.0  # seconds for a clean shutdown, then SIGKILL
_CLOCK = Clock()


# The kernel ends a server with the thread that started it; this one lives as long as the process.
_LAUNCHER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devservers")


class LocalServer(Server):
    """A database server in a process of our own; a product says how to set it up and what to run."""

    product: ClassVar[str]
    account: ClassVar[str | None]  # who runs it when root starts it
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, client: Client, *, origin: str, directory: Path, programs: list[Path]) -> None:
        super().__init__(client, origin=origin)
        self.directory = directory.absolute()
        self.data = self.directory / "data"
        self._needs = [self.data, *programs]
        self._account = server_account(self.account)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ending = False  # because we want it to

    @property
    def pid(self) -> int | None:
        """The server's main process, None while it is down."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def set_up(self) -> None:
        """Fill the data folder unless that is done; the server need not be started for it."""
        complete = self.directory / "complete"
        if complete.exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True, mode=0o700)
        if self._account is not None:
            self._account.owns(self.data)
        self._set_up()
        complete.touch()

    @property
    def death(self) -> str | None:
        """How the server ended, and its last log lines, if it ended although it was not asked to; else None."""
        process = self._process
        if process is None or process.poll() is None:
            return None
        # Asked last: `stop` and `kill` say so first, and a server that is started anew has another process.
        if self._is_ending or process is not self._process:
            return None
        last_words = self._last_words()
        return f"{self.product} on {self._client.url('')} ended with code {process.returncode}:\n{last_words}\n"

    def start(self) -> None:
        if self.pid is not None:
            return
        self.set_up()
        with self.log.open("ab") as log:
            process = _LAUNCHER.submit(
                subprocess.Popen,
                self._launched(self._command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data,
                # Ctrl-C in a terminal goes to the whole session; tests still need their servers then.
                start_new_session=True,
            ).result()
        self._process, self._is_ending = process, False
        try:
            self._until(self._client.answers, "it answers")
            self._first_words()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        process = self._process
        if process is None:
            return
        self._is_ending = True
        self.thaw()
        process.send_signal(self.stop_signal)
        try:
            process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        process = self._process
        if process is None:
            return
        self._is_ending = True
        if process.poll() is None:
            # The parent first: a living postmaster would start anew what it sees dying.
            for handle in [_killed(pid) for pid in [process.pid, *_children(process.pid)]]:
                _wait_until_gone(handle)
            process.wait(_STOP_PATIENCE)
        self._process = None

    def freeze(self) -> None:
        """Stop the server in mid-work with SIGSTOP: its connections stay open without an answer."""
        # The parent first: it would start processes that are not frozen.
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on; any other is left alone."""
        self._signal(signal.SIGCONT)

    @abstractmethod
    def _set_up(self) -> None:
        """Fill the empty folder `data`."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The server in the foreground, logging to its standard output."""

    def _first_words(self) -> None:
        """What must be said to a server that answers before it is of use; said after every start."""

    def _run(self, *command: str | Path) -> None:
        """Run a set-up program as the server's account."""
        done = subprocess.run(  # noqa: S603 - our own command
            self._launched([str(part) for part in command]),
            capture_output=True,
            cwd=self.data,
            check=False,
            timeout=_SET_UP_PATIENCE,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise self._unavailable(f"{Path(command[0]).name} failed:\n{_tail(said)}\n")

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            for pid in [self.pid, *_children(self.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until *condition* holds; raise `ServerUnavailable` that tells *what* never did."""
        assert self._process is not None
        deadline = _CLOCK.monotonic() + _PATIENCE
        while not condition():
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_POLL)
                raise self._unavailable(f"it ended with code {code} before {what}:\n{self._last_words()}")
            if _CLOCK.monotonic() > deadline:
                told = f"it did not come to pass within {_PATIENCE:.0f} seconds that {what}"
                raise self._unavailable(f"{told}:\n{self._state()}")

    def _state(self) -> str:
        """Return what the server says of itself when it does not do as it should."""
        return self._last_words()

    def _last_words(self) -> str:
        return _tail(self.log.read_text(errors="replace")) if self.log.exists() else "(there is no log)"

    @property
    def log(self) -> Path:
        """Where the server writes what it has to say."""
        return self.directory / "server.log"

    def _launched(self, command: list[str]) -> list[str]:
        return launched(command, account=self._account, needs=self._needs, death_signal=self.stop_signal)

    def _unavailable(self, reason: str) -> ServerUnavailable:
        return ServerUnavailable(
            self.product,
            reason=reason,
            remedy=f"Read {self.log}, or delete {self.directory} to begin anew",
        )


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _killed(pid: int) -> int | None:
    """Kill it; return its pidfd, None if it had ended by itself."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    return handle


def _wait_until_gone(handle: int | None) -> None:
    if handle is not None:
        # A pidfd becomes readable when its process ends, whichever process is its parent.
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        gone = ended.poll(_STOP_PATIENCE * 1000)
        os.close(handle)
        if not gone:
            raise TimeoutError(f"a killed process is still there after {_STOP_PATIENCE:g} s")


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-15:])

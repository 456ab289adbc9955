"""What every database server offers, whether it was started here or exists already."""

import re
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Protocol, Self


class ServerUnavailable(RuntimeError):
    """A database server cannot be had on this machine.

    `product` names it, `reason` says why, `remedy` says what to do, e.g. the command that installs it.
    """

    def __init__(self, product: str, *, reason: str, remedy: str) -> None:
        super().__init__(f"{product}: {reason}. {remedy}")
        self.product = product
        self.reason = reason
        self.remedy = remedy


class NotOurServer(RuntimeError):
    """A server that was not started here cannot be killed or restarted from here."""


class Client(Protocol):
    """Speaks to one product: the few sentences that tests and demos need, none of them cached."""

    def url(self, database: str) -> str:
        """The URL for applications, as `polysaga` and SQLAlchemy or PyMongo take it."""

    def answers(self) -> bool:
        """Whether the server accepts a connection and a statement right now."""

    def name_and_version(self) -> str:
        """Such as `PostgreSQL 18.4`."""

    def exists(self, database: str) -> bool: ...

    def create(self, database: str) -> None: ...

    def copy(self, source: str, database: str) -> None:
        """Create *database* with the tables and rows of *source*, which no connection may hold."""

    def drop(self, database: str) -> None:
        """Drop it if it is there, and cut the connections that still hold it."""


class Server(ABC):
    """A database server; as a context manager it runs from entry to exit."""

    def __init__(self, client: Client, *, origin: str) -> None:
        self.origin = origin  # where the server comes from: a wheel, a folder, an environment variable
        self._client = client

    @property
    def name_and_version(self) -> str:
        return self._client.name_and_version()

    def url(self, database: str) -> str:
        return self._client.url(database)

    def create_database(self, name: str) -> None:
        """Create `name` empty: a database that has this name is dropped first."""
        self.drop_database(name)
        self._client.create(name)

    def copy_database(self, source: str, name: str) -> None:
        """Create `name` as a copy of the database *source*, to which nothing may be connected."""
        _check_name(source)
        self.drop_database(name)
        self._client.copy(source, name)

    def ensure_database(self, name: str) -> None:
        """Create `name` unless it exists; its data stay."""
        _check_name(name)
        if not self._client.exists(name):
            self._client.create(name)

    def drop_database(self, name: str) -> None:
        """Drop `name` if it exists, even while connections hold it."""
        _check_name(name)
        self._client.drop(name)

    @abstractmethod
    def start(self) -> None:
        """Return when the server answers; raise `ServerUnavailable` if it does not come up."""

    @abstractmethod
    def stop(self) -> None:
        """Shut down cleanly; a server that does not run is left alone."""

    @abstractmethod
    def kill(self) -> None:
        """End the server with SIGKILL, as a power cut would; return when all its processes are gone."""

    def restart(self) -> None:
        """Stop, then start again with the same data under the same URL."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ExistingServer(Server):
    """A server that devservers did not start: used as it is, never stopped."""

    def start(self) -> None:
        if not self._client.answers():
            raise ServerUnavailable(
                self.origin,
                reason="the server it names does not answer",
                remedy=f"Start that server, or unset {self.origin} to have one started here",
            )

    def stop(self) -> None:
        """Leave it running."""

    def kill(self) -> None:
        raise NotOurServer(f"{self.origin} names a server that was not started here: it cannot be killed")

    def restart(self) -> None:
        raise NotOurServer(f"{self.origin} names a server that was not started here: it cannot be restarted")


def _check_name(database: str) -> None:
    # Names go into DDL, which takes no parameters.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", database):
        raise ValueError(f"not a database name: {database!r} (lower-case letters, digits and _)")

"""The databases of one program, opened and closed together.

`Registry` gives every handle its nodes and nothing more. Programs use `polysaga.Databases` (the routing half),
which also decides where the sessions of databases with replicas go.
"""

import asyncio
import difflib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, cast

from polysaga.clock import Clock
from polysaga.config import DatabaseSettings, Settings, load_settings
from polysaga.databases.handles import AnyDatabase, AnyHandle, Database, MongoDatabase, Node
from polysaga.databases.mongo_node import MongoNode
from polysaga.databases.opener import Opener
from polysaga.databases.sentinels import Sentinels
from polysaga.databases.sql_node import SqlNode
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.events import DatabaseOpened, Emit, Events, ignore
from polysaga.limits import GRACE, leave_cancelled_behind, limited

_CLOSING = 1.0  # seconds for closing all connections politely, at the end


class Registry:
    """The handles a program declares; `open` gives them their servers. All sessions go to the primaries.

    It is open at most once at a time in a process, in one event loop.
    """

    def __init__(self, *handles: AnyHandle, settings: Settings | Callable[[], Settings] = load_settings) -> None:
        """Declare the *handles*; *settings*, or a function that reads them, say where their servers are.

        Raises `ConfigurationError` for anything else, and for two handles of one name.
        """
        for handle in handles:
            if not isinstance(handle, Database):
                raise ConfigurationError(
                    f"a program's databases include {handle!r}, which is not a database: give the handles one "
                    "after the other, e.g. Databases(orders, inventory)"
                )
        self._handles = {handle.name: handle for handle in handles}
        if len(self._handles) != len(handles):
            raise ConfigurationError("two databases have the same name; every handle needs its own")
        # Of all sagas that are declared with these databases, also by several `Sagas` objects.
        self.journals: set[AnyHandle] = set()
        self.participants: set[AnyHandle] = set()
        self.configure(settings)
        self.opened_with: Settings | None = None  # None: closed
        self._opener: Opener | None = None  # None: closed
        self._claiming = threading.Lock()

    def __iter__(self) -> Iterator[AnyHandle]:
        return iter(self._handles.values())

    def __contains__(self, handle: object) -> bool:
        return handle in self._handles.values()

    def configure(self, settings: Settings | Callable[[], Settings]) -> None:
        """Set where the settings come from; `polysaga.fastapi.install` calls this for the command line."""
        self._source = settings if callable(settings) else _checked(settings)

    def settings(self) -> Settings:
        """Return the settings of this program, read anew if they come from a function.

        Raises `ConfigurationError` as `load_settings` does.
        """
        return _checked(self._source()) if callable(self._source) else self._source

    @asynccontextmanager
    async def open(
        self,
        settings: Settings | None = None,
        *,
        emit: Emit = ignore,
        needed: Collection[AnyHandle] | None = None,
    ) -> AsyncIterator[Self]:
        """Connect every handle to the nodes in *settings*, or the program's own, and disconnect at the end.

        The end takes at most two seconds, whatever drivers do. Raises `ConfigurationError` for settings that do
        not fit the handles, `DatabaseUnavailable` if a primary does not answer; with *needed*, if one of these
        does not. Sessions of another raise it until its primary answers.
        """
        settings = self._known(settings).spelt_as(self._handles)
        self._check_names(settings)
        events = Events(emit)
        async with AsyncExitStack() as stack:
            self._claim(settings)
            stack.callback(self._release)
            nodes = {name: _nodes(handle, settings.databases[name]) for name, handle in self._handles.items()}
            ends = Ends(stack, [node for group in nodes.values() for node in group])
            stack.push_async_callback(_close, ends.nodes)
            stack.push_async_callback(_stop, ends.watchers)
            stack.callback(self._detach)
            required = self._handles.keys() if needed is None else {handle.name for handle in needed}
            await _each(
                *(
                    self._attach(self._handles[name], group, events, ends, needed=name in required)
                    for name, group in nodes.items()
                )
            )
            alone = [group[0] for group in nodes.values() if len(group) == 1]
            ends.watchers.append(Sentinels(alone, events, Clock()).stop)
            yield self

    def _known(self, settings: Settings | None) -> Settings:
        return self.settings() if settings is None else _checked(settings)

    async def _attach(
        self, handle: AnyHandle, nodes: tuple[Node, ...], emit: Emit, ends: "Ends", *, needed: bool
    ) -> None:
        """Give *handle* its *nodes*, the primary first; add to *ends* what must be ended.

        Raises `DatabaseUnavailable` if the primary does not answer and is *needed*.
        """
        answered = await answers(nodes[0].ping(), needed=needed)
        cast(Any, handle).attach(nodes)
        if answered:
            emit(DatabaseOpened(handle.name, tuple(node.name for node in nodes)))

    def _claim(self, settings: Settings) -> None:
        """Note that the databases are open with *settings*; raise `ConfigurationError` if they are already."""
        with self._claiming:  # threads, each with a loop of its own, may come at the same time
            if self._opener is not None:
                self._opener.refuse_to_open_again("these databases")
            self.opened_with, self._opener = settings, Opener.here()

    def _release(self) -> None:
        self.opened_with = self._opener = None

    def _detach(self) -> None:
        for handle in self:
            handle.attach(())

    def _check_names(self, settings: Settings) -> None:
        for reason in unmatched(self._handles, settings).values():
            raise ConfigurationError(reason)


@dataclass(frozen=True, slots=True)
class Ends:
    """What a closing registry ends: first all *watchers* at once, then all *nodes* at once."""

    stack: AsyncExitStack
    nodes: list[Node]
    watchers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


async def answers(question: Awaitable[None], *, needed: bool) -> bool:
    """Return whether a database answers its first *question*; raise `DatabaseUnavailable` if it is *needed*."""
    try:
        await question
    except DatabaseUnavailable:
        if needed:
            raise
        return False
    return True


def _checked(settings: object) -> Settings:
    if not isinstance(settings, Settings):
        raise ConfigurationError(
            f"the settings of a program's databases are of the type {type(settings).__name__}: give Settings, "
            "e.g. from load_settings() or parse_settings({...})"
        )
    return settings


def unmatched(handles: Collection[str], settings: Settings) -> dict[str, str]:
    """Return the databases that have a handle or settings but not both, with the remedy for each."""
    found = {
        name: f"database '{name}' has no settings: set databases.{name}.url"
        for name in handles
        if name not in settings.databases
    }
    for name in settings.databases:
        if name not in handles:
            close = difflib.get_close_matches(name, handles, n=1)
            hint = f", did you mean '{close[0]}'?" if close else f"; known: {', '.join(handles)}"
            found[name] = f"settings name a database '{name}' that the program lacks{hint}"
    return found


def _nodes(handle: AnyHandle, settings: DatabaseSettings) -> tuple[Node, ...]:
    url = settings.url.get_secret_value()
    mongo = isinstance(handle, MongoDatabase) or (isinstance(handle, AnyDatabase) and url.startswith("mongodb"))
    kind = MongoNode if mongo else SqlNode
    primary: Node = kind(handle.name, "primary", url, settings)
    replicas: list[Node] = [
        kind(
            handle.name,
            "replica",
            replica.url.get_secret_value(),
            settings.model_copy(update={"pool": replica.pool or settings.pool}),
        )
        for replica in settings.replicas
    ]
    return (primary, *replicas)


async def _stop(watchers: Collection[Callable[[], Awaitable[None]]]) -> None:
    """Stop *watchers*; what a hung driver leaves over is broken off with the nodes."""
    stops = (limited(stop(), GRACE / 4, grace=GRACE / 4) for stop in watchers)
    for outcome in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, TimeoutError):
            raise outcome


async def _close(nodes: Collection[Node]) -> None:
    """Close *nodes*, all at once; a connection whose server or driver hangs is broken off."""
    closings = (limited(node.close(), _CLOSING, grace=GRACE / 2) for node in nodes)
    outcomes = await asyncio.gather(*closings, return_exceptions=True)
    hung = [node for node, outcome in zip(nodes, outcomes, strict=True) if isinstance(outcome, TimeoutError)]
    for node in hung:
        node.abandon()
    if hung:
        leave_cancelled_behind()
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TimeoutError):
            raise outcome


async def _each(*works: Any) -> None:
    """Await all *works*; raise the first failure only after the others have ended."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result

"""The databases of a program, opened together, with routes for those that have replicas.

A database without replicas gets its node and nothing else: no question after a commit, no cookie.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, cast

from polysaga.clock import Clock
from polysaga.config import BookmarkSettings, Settings, load_settings
from polysaga.databases.handles import AnyHandle, Consistency, Node
from polysaga.databases.mongo_node import MongoNode
from polysaga.databases.positions import ClusterTime, Position
from polysaga.databases.registry import Ends, Registry, answers
from polysaga.databases.sql_node import SqlNode
from polysaga.errors import ConfigurationError
from polysaga.events import DatabaseOpened, Emit, ReplicaUnreachable, ignore
from polysaga.routing.bookmarks import encode, verify
from polysaga.routing.guards.constructs import guard
from polysaga.routing.replica_sets import MongoRoutes
from polysaga.routing.router import Router
from polysaga.routing.scopes import Scope, current, entered
from polysaga.routing.sessions import SqlRoutes

_MOST = 32  # bookmarks that are read from one text


class Databases(Registry):
    """The handles a program declares; `open` gives them their servers, `scope` says what reads must see.

    One `Databases` is open at most once at a time in a process, in one event loop.
    """

    def __init__(self, *handles: AnyHandle, settings: Settings | Callable[[], Settings] = load_settings) -> None:
        """Declare the *handles*; *settings*, or a function that reads them, say where their servers are."""
        super().__init__(*handles, settings=settings)
        self._routers: dict[str, Router] = {}
        self._replica_sets: set[str] = set()
        self.bookmarks = BookmarkSettings()  # the settings for them
        self._clock = Clock()

    @property
    def routers(self) -> Mapping[str, Router]:
        """The routers of the SQL databases that have replicas, by name; for tools and tests."""
        return self._routers

    @property
    def replicated(self) -> bool:
        """Whether any database has replicas, so that bookmarks matter."""
        return bool(self._routers or self._replica_sets)

    @asynccontextmanager
    async def open(
        self,
        settings: Settings | None = None,
        *,
        emit: Emit = ignore,
        needed: Collection[AnyHandle] | None = None,
    ) -> AsyncIterator[Self]:
        """Connect every handle to the nodes in *settings*, or the program's own, and disconnect at the end.

        Raises `ConfigurationError` for settings that do not fit the handles, `DatabaseUnavailable` if a database
        does not answer; with *needed*, if one of these does not. A replica that does not answer is announced, and
        left out until it answers.
        """
        async with super().open(settings, emit=emit, needed=needed):
            yield self

    @contextmanager
    def scope(
        self, bookmark: str | Mapping[str, Position] = "", *, consistency: Consistency | None = None
    ) -> Iterator[Scope]:
        """Work as one unit: a job, a message of a queue or a websocket, a test.

        Reads inside see what *bookmark* (see `bookmark`) names and what is committed inside. A request has a scope
        of its own already (`polysaga.asgi`); a task that outlives it, or the next message of a websocket, begins a
        new one. Several bookmarks may be joined by commas. One that none of our processes signed counts as none;
        so does a position of another cluster than the present one.
        """
        known: dict[str, Position] = {}
        for one in self._bookmarks(bookmark) if isinstance(bookmark, str) else (bookmark,):
            for name, position in one.items():
                if self._concerns(name, position):
                    before = known.get(name)
                    both = before is not None and before.comparable(position)
                    known[name] = position.merged(before) if both and before is not None else position
        with entered(Scope(known, clock=self._clock, consistency=consistency)) as scope:
            yield scope

    async def bookmark(self) -> str:
        """Return the bookmark with which a job or a message sees all that this scope has written or received.

        Empty without replicas. Raises `ConfigurationError` if `bookmarks.secret` is not set.
        """
        scope = current()
        if scope is None or not self.replicated:
            return ""
        await scope.settle()
        return self.encode_bookmark(scope)

    def encode_bookmark(self, scope: Scope, names: Collection[str] | None = None) -> str:
        """Encode what *scope* must see; with *names*, of these databases only.

        If the position of an acknowledged commit is unknown, the text names a place that no server reaches. The
        next reader then asks the primary again (`policy.clamped`).
        """
        must = dict(scope.required)
        for name in scope.unsure & scope.acknowledged & self._routers.keys():
            place = self._routers[name].topology.latest_position
            if place is not None:
                must[name] = place.beyond()
        if names is not None:
            must = {name: place for name, place in must.items() if name in names}
        return encode(must, self._secrets()[0]) if must else ""

    def check_secret(self) -> None:
        """Raise `ConfigurationError` if bookmarks are needed and cannot be signed."""
        if self.replicated:
            self._secrets()

    def _bookmarks(self, text: str) -> Iterator[Mapping[str, Position]]:
        if text and self.replicated:
            for one in text.split(",", _MOST)[:_MOST]:
                yield verify(one.strip(), self._secrets())

    def _concerns(self, name: str, position: Position) -> bool:
        if name not in self._routers:
            return name in self._replica_sets and isinstance(position, ClusterTime)
        primary = self._routers[name].topology.primary_state
        return primary is None or primary.position is None or primary.position.comparable(position)

    def _secrets(self) -> list[bytes]:
        given = (self.bookmarks.secret, *self.bookmarks.former_secrets)
        if self.bookmarks.secret is None:
            name = next(iter((*self._routers, *self._replica_sets)))
            raise ConfigurationError(
                f"database '{name}' has replicas, so clients carry bookmarks, and these are "
                "signed: set bookmarks.secret (POLYSAGA_BOOKMARKS__SECRET) to a long random text, one for all"
            )
        return [secret.get_secret_value().encode() for secret in given if secret is not None]

    def _claim(self, settings: Settings) -> None:
        super()._claim(settings)
        self.bookmarks = settings.bookmarks

    async def _attach(
        self, handle: AnyHandle, nodes: tuple[Node, ...], emit: Emit, ends: Ends, *, needed: bool
    ) -> None:
        for each in nodes:
            guard(each)
        servers = [node for node in nodes if isinstance(node, SqlNode)]
        if len(servers) < 2:
            await super()._attach(handle, nodes, emit, ends, needed=needed)
            alone = nodes[0]
            if isinstance(alone, MongoNode) and alone.members > 1:
                self._replica_sets.add(handle.name)
                ends.stack.callback(self._replica_sets.discard, handle.name)
                cast(Any, handle).attach(nodes, MongoRoutes(alone, alone.settings.reads, self._clock))
            return
        router = _router(handle.name, servers, emit, self._clock)
        ends.nodes.append(router.primary)
        ends.watchers.append(router.stop)
        answered = await answers(router.start(), needed=needed)
        for node in router.topology.nodes[1:]:
            if node.failure is not None:
                emit(ReplicaUnreachable(handle.name, node.seat.name, node.failure))
        ends.stack.callback(self._routers.pop, handle.name)
        self._routers[handle.name] = router
        cast(Any, handle).attach((router.primary, *servers[1:]), SqlRoutes(router), tuple(servers))
        if answered:
            emit(DatabaseOpened(handle.name, tuple(node.name for node in servers)))


def _router(name: str, servers: list[SqlNode], emit: Emit, clock: Clock) -> Router:
    first = servers[0]
    for other in servers[1:]:
        if other.url.drivername != first.url.drivername:
            raise ConfigurationError(
                f"databases.{name}: a replica's URL begins with '{other.url.drivername}://' and the primary's "
                f"with '{first.url.drivername}://'; give all of them the same driver"
            )
    primary = SqlNode(name, "primary", first.url.render_as_string(hide_password=False), first.settings)
    for node in (primary, *servers):
        node.watched = node.dialect.replicates
    guard(primary)  # it answers readers too if no replica may
    settings = first.settings
    return Router(name, primary, servers, settings.replicas, settings.reads, emit=emit, clock=clock)

"""The servers of one measurement, with empty databases on them that are dropped afterwards.

`POLYSAGA_TEST_POSTGRES_URL` and its sisters name servers to use instead. They do not tell what they are sent, nor
how much processor time they use: then neither is reported.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from benchmarks.process import Process, Recipe
from devservers import LocalServer, Product, Server
from devservers.counting import Count, counter

_COUNTED = 50  # sagas; few enough to come between two rounds of background work


@dataclass(frozen=True, slots=True)
class Databases:
    """The databases by the names that the sides use."""

    servers: Mapping[str, Server]  # by the names of the databases
    urls: dict[str, str]

    @property
    def versions(self) -> list[str]:
        """Return name and version of every server."""
        return list(dict.fromkeys(server.name_and_version for server in self.servers.values()))

    def pids(self) -> dict[str, int]:
        """Return the main processes of the servers that run here, by product."""
        local = [server for server in self.servers.values() if isinstance(server, LocalServer)]
        return {server.product: server.pid for server in local if server.pid is not None}

    def some(self, *names: str) -> dict[str, str]:
        """Return the URLs of some of the databases."""
        return {name: self.urls[name] for name in names}

    def counted(self, recipe: Recipe) -> dict[str, float]:
        """Return what one saga sends: statements and commits as servers count them, packets as the kernel does.

        A process of its own runs the sagas one after the other. Empty if the servers are not our own. From now
        on the databases of PostgreSQL log what new connections send: count after everything that is timed.
        """
        names: dict[LocalServer, list[str]] = {}
        for name in (name for name, url in self.urls.items() if url in recipe.places.values()):
            server = self.servers[name]
            if not isinstance(server, LocalServer):
                return {}
            names.setdefault(server, []).append(_database(self.urls[name]))
        try:
            counters = [counter(server, *on) for server, on in names.items()]
        except TypeError:
            counters = []  # MongoDB does not count
        with Process(recipe, dict) as process:
            process.count(1)  # connects, prepares statements
            process.quiet()
            for one in counters:
                one.reset()
            packets = process.count(_COUNTED)
            total = sum((one.count() for one in counters), Count(0, 0))
        found = {"packets": packets / _COUNTED}
        if counters:
            found |= {"commits": total.commits / _COUNTED, "statements": total.statements / _COUNTED}
        return found


@contextmanager
def running(places: Mapping[str, Product]) -> Iterator[Databases]:
    """Run the servers that *places* name, and give an empty database for each name."""
    directory = Path(tempfile.mkdtemp(prefix="polysaga-bench-"))
    directory.chmod(0o711)  # servers under another account must get in, too
    run = uuid4().hex[:8]
    names = {handle: f"bench_{handle}_{run}" for handle in places}
    try:
        with ExitStack() as stack:
            products = {product.key: product for product in places.values()}
            started = {
                key: stack.enter_context(product.server(directory / key)) for key, product in products.items()
            }
            servers = {handle: started[product.key] for handle, product in places.items()}
            for handle, server in servers.items():
                server.create_database(names[handle])
                stack.callback(server.drop_database, names[handle])
            yield Databases(servers, {handle: servers[handle].url(names[handle]) for handle in places})
    finally:
        shutil.rmtree(directory)


def _database(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]

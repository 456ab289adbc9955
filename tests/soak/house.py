"""Three database servers, a proxy before each, and two services behind the proxies, kept alive by supervisors."""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from devservers import LocalServer, Server
from devservers.ports import free_port
from tests.fixtures.proxy import Proxy
from tests.fixtures.services import ServiceProcess, poll_until
from tests.soak.plan import Fault, Kind

_PATIENCE = 60.0  # seconds until a service that was killed has ended
_PAUSE = 0.3  # seconds between the end of a process and the next one


class Supervisor:
    """Starts the service again when it ends, as an init system; keeps the ends that are no part of the plan."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.deaths: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._blamed: set[int] = set()  # processes that we ended
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"service {service.port}", daemon=True)

    def start(self) -> None:
        """Begin to start it."""
        self._thread.start()

    def until_up(self) -> None:
        """Return when the service answers, whichever process it is."""
        poll_until(self.service.answers, f"the service on port {self.service.port} answers")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process there is now; one that ends it is a reason to start another one."""
        process = self._process
        if process is None:
            return
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self._blamed.add(process.pid)
        process.send_signal(number)

    def close(self) -> None:
        """End the process for good."""
        self._closed.set()
        self.send(signal.SIGKILL)
        self._thread.join(_PATIENCE)

    def _supervise(self) -> None:
        while not self._closed.is_set():
            self._process = process = self.service.spawn()
            if self._closed.is_set():
                process.kill()
            served = self._serves(process)
            code = process.wait()
            known = process.pid in self._blamed and code in {0, -signal.SIGKILL, -signal.SIGTERM}
            # One that cannot start because a database is down tries again, as under any init system.
            if served and not known and not self._closed.is_set():
                said = self.service.log.read_text(errors="replace").strip().splitlines()[-1:]
                self.deaths.append(f"the service on port {self.service.port} ended with code {code}: {said}")
            self._closed.wait(_PAUSE)

    def _serves(self, process: "subprocess.Popen[str]") -> bool:
        """Return True once *process* answers, False if it ends before."""
        while process.poll() is None:
            if self.service.answers():
                return True
            self._closed.wait(_PAUSE)
        return False


class House:
    """Everything that can fail, by name."""

    def __init__(
        self,
        servers: Mapping[str, Server],
        urls: Mapping[str, str],
        proxies: Mapping[str, Proxy],
        services: Mapping[str, Supervisor],
    ) -> None:
        self.servers, self.urls, self.proxies, self.services = servers, urls, proxies, services
        self._frozen: set[str] = set()

    @property
    def restartable(self) -> list[str]:
        """The databases whose servers are ours to stop."""
        return [name for name, server in self.servers.items() if isinstance(server, LocalServer)]

    def begin(self, fault: Fault) -> Callable[[], None] | None:
        """Make *fault* happen; return what ends it, if it lasts."""
        match fault.kind:
            case Kind.KILL:
                self._frozen.discard(fault.target)
                self.services[fault.target].send(signal.SIGKILL)
            case Kind.TERMINATE:
                self.thaw(fault.target)
                self.services[fault.target].send(signal.SIGTERM)
            case Kind.FREEZE:
                self._frozen.add(fault.target)
                self.services[fault.target].send(signal.SIGSTOP)
                return lambda: self.thaw(fault.target)
            case Kind.RESTART:
                self.servers[fault.target].restart()
            case Kind.CRASH:
                self.servers[fault.target].kill()
                self.servers[fault.target].start()
            case Kind.RESET:
                self.proxies[fault.target].reset()
            case Kind.DROP:
                self.proxies[fault.target].drop()
            case Kind.HANG:
                self.proxies[fault.target].hang()
                return self.proxies[fault.target].resume
        return None

    def thaw(self, service: str) -> None:
        """Let *service* go on if it is frozen."""
        if service in self._frozen:
            self._frozen.discard(service)
            self.services[service].send(signal.SIGCONT)

    def recover(self) -> None:
        """Return when everything is up."""
        for proxy in self.proxies.values():
            proxy.resume()
        for name, supervisor in self.services.items():
            self.thaw(name)
            supervisor.until_up()

    @property
    def mistakes(self) -> list[str]:
        """What the processes logged of mistakes in the program."""
        return [line for supervisor in self.services.values() for line in supervisor.service.mistakes]

    @property
    def deaths(self) -> list[str]:
        """The processes that ended by themselves."""
        return [death for supervisor in self.services.values() for death in supervisor.deaths]


@contextmanager
def house(servers: Mapping[str, Server], urls: Mapping[str, str], directory: Path) -> Iterator[House]:
    """Run two services on fresh databases at *urls*, whose running *servers* go by the names of the databases."""
    with ExitStack() as stack:
        proxies = {name: stack.enter_context(Proxy.to(url)) for name, url in urls.items()}
        through = {name: proxy.url for name, proxy in proxies.items()}
        services = {
            name: Supervisor(ServiceProcess(through, free_port(None), directory)) for name in ("one", "two")
        }
        for supervisor in services.values():
            stack.callback(supervisor.close)
            supervisor.start()
        home = House(servers, urls, proxies, services)
        home.recover()
        yield home

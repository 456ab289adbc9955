"""MongoDB through PyMongo's asynchronous client: labels and codes instead of SQLSTATEs.

Errors are recognised by their code and the names of their classes, so that this module can be imported
without the driver.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote_plus

from polysaga.config import DatabaseSettings
from polysaga.databases.dialects.options import UnusableOption, refuse_without_value
from polysaga.databases.inspection import Facts
from polysaga.databases.positions import ClusterTime
from polysaga.databases.samples import NodeRole, Sample
from polysaga.faults import Fault

_CODES = {
    18: Fault.REJECTED,
    8000: Fault.REJECTED,
    13: Fault.DENIED,
    189: Fault.READ_ONLY,
    10107: Fault.READ_ONLY,
    11602: Fault.READ_ONLY,
    13435: Fault.READ_ONLY,
    11000: Fault.DUPLICATE_KEY,
    112: Fault.SERIALIZATION,  # WriteConflict
    251: Fault.SERIALIZATION,  # NoSuchTransaction
    24: Fault.LOCK_TIMEOUT,
    50: Fault.STATEMENT_TIMEOUT,
    6: Fault.UNREACHABLE,
    7: Fault.UNREACHABLE,
    46: Fault.LOCK_TIMEOUT,
    64: Fault.UNKNOWN_COMMIT,  # written, but not confirmed in time
    89: Fault.DISCONNECTED,
    91: Fault.DISCONNECTED,  # the server shuts down
    133: Fault.UNREACHABLE,
    134: Fault.UNREACHABLE,
    146: Fault.OUT_OF_RESOURCES,
    202: Fault.UNREACHABLE,
    216: Fault.READ_ONLY,  # an election is under way
    225: Fault.SERIALIZATION,
    246: Fault.SERIALIZATION,
    262: Fault.STATEMENT_TIMEOUT,
    267: Fault.SERIALIZATION,
    290: Fault.SERIALIZATION,  # a transaction that lasted too long
    9001: Fault.DISCONNECTED,
    10058: Fault.READ_ONLY,
    11600: Fault.DISCONNECTED,  # interrupted by a shutdown
    11601: Fault.STATEMENT_TIMEOUT,  # interrupted
    13388: Fault.SERIALIZATION,
    13436: Fault.READ_ONLY,
    14031: Fault.OUT_OF_RESOURCES,  # the disk is full
}
# Why a document cannot be encoded, without the value or the key.
_UNFIT = re.compile(
    r"(documents must have only string keys)|cannot encode object: .*, of type: <\w+ '([\w.<>]+)'>\Z", re.DOTALL
)
_OPTION = re.compile(r"([^&;=]+)=([^&;]*)")
_CLASSES = {
    "WaitQueueTimeoutError": Fault.POOL_EXHAUSTED,
    "ServerSelectionTimeoutError": Fault.UNREACHABLE,
    "ConnectionFailure": Fault.DISCONNECTED,
}

_MAJORITY = "leave it out: a majority confirms every write"
_REFUSED = {
    "maxpoolsize": "set databases.{database}.pool.size and pool.max_overflow",
    "waitqueuetimeoutms": "set databases.{database}.pool.acquire_timeout",
    "connecttimeoutms": "set databases.{database}.pool.connect_timeout",
    "serverselectiontimeoutms": "set databases.{database}.pool.connect_timeout",
    "wtimeoutms": _MAJORITY,
    "wtimeout": _MAJORITY,
}
# Options with one permitted value, and the remedy for any other.
_ONE_VALUE = {
    "w": ("majority", _MAJORITY),
    "journal": ("true", _MAJORITY),
    "j": ("true", _MAJORITY),
    "fsync": ("false", _MAJORITY),
    "uuidrepresentation": ("standard", "leave it out: UUIDs are stored in the standard form"),
    "tz_aware": ("true", "leave it out: times have their zone"),
}


class Mongo:
    """What a MongoDB deployment reports about itself, and what its errors mean."""

    name: ClassVar[str] = "mongodb"
    extra: ClassVar[str] = "mongo"

    def check_options(self, url: str) -> None:
        """Raise `UnusableOption` for an option in *url* that would not take effect; PyMongo checks the names."""
        refuse_without_value(url)
        given = [(name.lower(), unquote_plus(value)) for name, value in _OPTION.findall(url.partition("?")[2])]
        for name, value in given:
            if name in _REFUSED:
                raise UnusableOption(name, "cannot be given in the URL", _REFUSED[name])
            only, remedy = _ONE_VALUE.get(name, (None, ""))
            if only is not None and value.lower() != only:
                raise UnusableOption(name, f"can only be '{only}'", remedy)
        for name, times in Counter(name for name, _ in given).items():
            if times > 1 and name != "readpreferencetags":
                raise UnusableOption(name, "is given more than once", "give it once")

    def client_arguments(self, settings: DatabaseSettings) -> dict[str, Any]:
        """Return what `AsyncMongoClient` needs: standard UUIDs, times with their zone, the pool's limits."""
        pool = settings.pool
        return {
            "uuidRepresentation": "standard",
            "tz_aware": True,
            "maxPoolSize": pool.size + pool.max_overflow,
            "waitQueueTimeoutMS": round(pool.acquire_timeout * 1000),
            "connectTimeoutMS": round(pool.connect_timeout * 1000),
            "serverSelectionTimeoutMS": round(pool.connect_timeout * 1000),
        }

    def name_of_client(self, url: str) -> dict[str, str]:
        """Return the name that the client gives the servers; empty if *url* sets one."""
        return {} if re.search(r"(?i)[?&;]appname=", url) else {"appname": "polysaga"}

    async def sample(self, driver: Any) -> Sample:
        """Return role and position of the server to which *driver*, the client, would write."""
        hello = await driver.admin.command("hello")
        role = NodeRole.PRIMARY if hello.get("isWritablePrimary") else NodeRole.REPLICA
        return Sample(role, _position(hello.get("operationTime")))

    async def facts(self, driver: Any) -> Facts:
        """Return version and clock of the server to which *driver*, the client, would write."""
        built, hello = await driver.admin.command("buildInfo"), await driver.admin.command("hello")
        return Facts(built["version"], hello["localTime"].timestamp(), None)

    async def lacking(
        self, driver: Any, database: str, needed: Mapping[str, set[str]], *, create: bool
    ) -> dict[str, set[str]]:
        """Return, by collection, the actions in *needed* that the account of *driver*, the client, may not do.

        *create* adds the action that creates collections. Without access control the result is empty.
        """
        told = (await driver.admin.command("connectionStatus", showPrivileges=True))["authInfo"]
        if not told.get("authenticatedUsers"):
            return {}
        wanted = {**needed, "new collections": {"createCollection"}} if create else needed
        missing = {name: actions - _allowed(told, database, name) for name, actions in wanted.items()}
        return {name: actions for name, actions in missing.items() if actions}

    async def capture(self, driver: Any) -> ClusterTime | None:
        """Return a time past every majority write that was acknowledged before the call."""
        return _position((await driver.admin.command("ping")).get("operationTime"))

    def fault(self, error: BaseException) -> Fault | None:
        """Return the fault that *error* stands for; None if it is not the database's."""
        ancestors = [ancestor.__name__ for ancestor in type(error).__mro__]
        if "PyMongoError" not in ancestors:
            return None
        labelled = getattr(error, "has_error_label", lambda _: False)
        if labelled("UnknownTransactionCommitResult"):
            return Fault.UNKNOWN_COMMIT
        if labelled("TransientTransactionError"):
            return Fault.SERIALIZATION  # retry the whole transaction, whatever the code
        known = _CODES.get(getattr(error, "code", None) or 0)
        if known is not None:
            return known
        for name in ancestors:
            if name in _CLASSES:
                return _CLASSES[name]
        # A write that can be retried, with a code that is not listed here.
        return Fault.DISCONNECTED if labelled("RetryableWriteError") else None

    def said(self, error: BaseException) -> str | None:
        """Return class, code and names of a driver's *error*, without values; None if it is not the driver's."""
        name, ancestors = type(error).__name__, [ancestor.__name__ for ancestor in type(error).__mro__]
        if "BSONError" in ancestors:
            unfit = _UNFIT.search(str(error))
            return name if unfit is None else f"{name}: {unfit[1] or f'cannot encode a {unfit[2]}'}"
        if "PyMongoError" not in ancestors:
            return None
        details = getattr(error, "details", None)
        if not isinstance(details, Mapping):  # for a lost connection it is a list of errors by server
            # About servers and connections: "host:port: ...", or about how the driver was called.
            return f"{name}: {without_topology(error)}" if "ConnectionFailure" in ancestors else name
        first = (details.get("writeErrors") or [details])[0]
        code, pattern = first.get("code", getattr(error, "code", None)), first.get("keyPattern")
        told = f"{name} ({code})" if details.get("codeName") is None else f"{name} ({code} {details['codeName']})"
        return told if pattern is None else f"{told}, key {', '.join(pattern)}"


def without_topology(error: BaseException) -> str:
    """Return the text of *error* up to the driver's view of all servers, which has another id in each client."""
    return str(error).partition(", Timeout: ")[0]


def _allowed(told: Mapping[str, Any], database: str, collection: str) -> set[str]:
    """Return the actions that *told*, the answer to connectionStatus, allows on *collection*."""
    allowed: set[str] = set()
    for privilege in told.get("authenticatedUserPrivileges", ()):
        resource = privilege["resource"]
        covers = (
            resource.get("db") in ("", database) and resource.get("collection") in ("", collection)
        ) or resource.get("anyResource", False)
        if covers:
            allowed |= set(privilege["actions"])
    return {"find", "insert", "update", "remove", "createCollection"} if "anyAction" in allowed else allowed


def _position(time: Any) -> ClusterTime | None:
    return None if time is None else ClusterTime(time.time, time.inc)

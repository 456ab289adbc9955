"""The one place that imports a module later than at the top of a file.

`import polysaga` loads no driver. A driver is loaded when the settings name a database that needs it: a service on
PostgreSQL alone has no use for PyMongo. `docs/decisions/0010-what-is-loaded-late.md` has the list and the figures.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def load_module(module: str) -> Any:
    """Import *module*, if it is not loaded yet, and return it; raises `ImportError`."""
    return importlib.import_module(module)


def facade(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` (PEP 562) for a *package* that re-exports names of other modules.

    *homes* lists the names by module. The first use of one of its names imports the module.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name in home_of:
            value = getattr(load_module(home_of[name]), name)
        elif not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return load_module(f"{package}.{name}")  # as if it had been imported together with the package
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return get, names

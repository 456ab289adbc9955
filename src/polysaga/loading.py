"""The one place where a module is imported later than at the top of a file.

A driver is loaded when settings name a database that needs it, and not by `import polysaga`: a service on
PostgreSQL alone has no use for PyMongo. `docs/decisions/0010-what-is-loaded-late.md` has the list and the figures.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def load_module(module: str) -> Any:
    """Import *module*, unless that was done before, and return it; raises `ImportError`."""
    return importlib.import_module(module)


def facade(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` (PEP 562) of a *package* that shows names of other modules.

    *homes* has the names by module. A module is imported when the first of its names is asked for.
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

"""Fixtures for every test of the workspace."""

import pytest
from hypothesis import settings

from orders.serving import calm_garbage_collection

# A busy machine is no mistake of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest_plugins = [
    "tests.fixtures.memory",
    "tests.fixtures.scheduling",
    "tests.fixtures.tiers",
    "tests.fixtures.failures",
    "tests.fixtures.uncaptured",
    "tests.fixtures.hangs",
    "tests.fixtures.left_behind",
    "tests.fixtures.watch",
    "tests.fixtures.servers",
    "tests.fixtures.setups",
    "tests.fixtures.projects",
    "tests.fixtures.dashboards",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """SQLAlchemy's asynchronous engines need asyncio."""
    return "asyncio"


def pytest_collection_finish() -> None:
    """Let the garbage collector look at less and less often: it takes a sixth of the processor time else."""
    calm_garbage_collection()

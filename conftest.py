"""Fixtures for every test of the workspace."""

import gc

import pytest
from hypothesis import settings

# A busy machine is no mistake of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest_plugins = [
    "tests.fixtures.memory",
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
    """Take what is loaded by now out of garbage collection: it stays, and each look at it takes time."""
    gc.collect()
    gc.freeze()

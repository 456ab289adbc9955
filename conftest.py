"""Fixtures for every test of the workspace."""

import pytest
from hypothesis import settings

# A busy machine is no mistake of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.setups", "tests.fixtures.projects"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """SQLAlchemy's asynchronous engines need asyncio."""
    return "asyncio"

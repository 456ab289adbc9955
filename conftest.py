"""Fixtures for every test of the workspace."""

import pytest

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.setups", "tests.fixtures.projects"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """SQLAlchemy's asynchronous engines need asyncio."""
    return "asyncio"

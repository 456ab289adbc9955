"""Wherever a reader is routed to, it refuses to write before the server has to."""

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import text

from polysaga.errors import WriteOnReader
from tests.fixtures.notes import Notes, settings_of
from tests.fixtures.servers import PostgresCluster


@pytest.mark.parametrize(
    "wish", [{}, {"consistency": "strong"}, {"snapshot": True}, {"consistency": "eventual", "allow_stale": True}]
)
async def test_readers_on_replicas_and_on_the_primary_are_guarded(
    postgres_cluster: PostgresCluster, wish: dict[str, Any]
) -> None:
    name = f"notes_{time.monotonic_ns()}"
    await asyncio.to_thread(postgres_cluster.primary.create_database, name)
    await asyncio.to_thread(postgres_cluster.catch_up)
    async with Notes().open(settings_of(postgres_cluster.urls(name))) as notes:
        await asyncio.to_thread(postgres_cluster.catch_up)
        async with notes.handle.reader(**wish) as db:
            for statement in ("INSERT INTO notes VALUES (1, 1)", "SELECT pg_advisory_lock(1)"):
                with pytest.raises(WriteOnReader):
                    await db.execute(text(statement))
            assert await db.scalar(text("SELECT count(*) FROM notes")) == 0

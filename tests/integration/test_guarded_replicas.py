"""Wherever a reader is routed to, it refuses to write before the server has to, and to go on after a loss."""

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import text

from polysaga.errors import TransactionLost, WriteOnReader
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


async def test_a_reader_on_a_replica_that_swallows_a_time_out_is_told_what_it_did(
    postgres_cluster: PostgresCluster,
) -> None:
    name = f"notes_{time.monotonic_ns()}"
    await asyncio.to_thread(postgres_cluster.primary.create_database, name)
    await asyncio.to_thread(postgres_cluster.catch_up)
    async with Notes().open(settings_of(postgres_cluster.urls(name))) as notes:

        async def block() -> None:
            async with notes.handle.reader(consistency="eventual", allow_stale=True) as db:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(db.execute(text("SELECT pg_sleep(60)")), 0.05)
                await db.execute(text("SELECT 1"))

        with pytest.raises(TransactionLost):
            await block()

"""Wherever a reader is routed to, it refuses to write before the server has to, and to go on after a loss."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from polysaga.errors import TransactionLost, WriteOnReader
from tests.fixtures.notes import Notes, settings_of
from tests.fixtures.servers import PostgresCluster

Work: TypeAlias = Callable[[AsyncSession], Awaitable[None]]


class Base(DeclarativeBase):
    """The tables of this module."""


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


async def add(db: AsyncSession) -> None:
    db.add(Note(id=2, value=2))


async def change(db: AsyncSession) -> None:
    (await db.get_one(Note, 1)).value = 2


async def delete(db: AsyncSession) -> None:
    await db.delete(await db.get_one(Note, 1))


async def fails(notes: Notes, wish: dict[str, Any], work: Work) -> None:
    async with notes.handle.reader(**wish) as db:
        await work(db)
        raise LookupError


@pytest.mark.parametrize("work", [add, change, delete])
@pytest.mark.parametrize("wish", [{}, {"consistency": "strong"}, {"snapshot": True}])
async def test_what_is_changed_on_a_reader_is_not_dropped_in_silence(
    postgres_cluster: PostgresCluster, wish: dict[str, Any], work: Work
) -> None:
    name = f"notes_{time.monotonic_ns()}"
    await asyncio.to_thread(postgres_cluster.primary.create_database, name)
    await asyncio.to_thread(postgres_cluster.catch_up)
    async with Notes().open(settings_of(postgres_cluster.urls(name))) as notes:
        async with notes.handle.writer() as db:
            db.add(Note(id=1, value=1))
        await asyncio.to_thread(postgres_cluster.catch_up)
        with pytest.raises(WriteOnReader):
            async with notes.handle.reader(**wish) as db:
                await work(db)
        with pytest.raises(LookupError):
            await fails(notes, wish, work)
        assert not any(node.in_use for node in notes.handle.nodes)


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
                await db.execute(text("SELECT 1"))  # it has its connection
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(db.execute(text("SELECT pg_sleep(60)")), 0.05)
                await db.execute(text("SELECT 1"))

        with pytest.raises(TransactionLost):
            await block()

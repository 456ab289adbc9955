"""The journal's primary dies while sagas run, and a standby that has every acknowledged commit is promoted."""

import asyncio
import contextlib
from pathlib import Path
from uuid import UUID

from psycopg import sql
from sqlalchemy import text

from polysaga.errors import PolysagaError
from tests.fixtures.programs import PLACE_ORDER, Gate, Order, Program
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.setups import embedded_urls
from tests.fixtures.waiting import pause, until

CUSTOMERS = 4
PATIENCE = 60.0  # seconds until a test that waits in vain fails
UNFINISHED = text("SELECT count(*) FROM polysaga_journal WHERE wake_at IS NOT NULL")


async def test_sagas_in_flight_when_the_journal_is_promoted_all_come_to_rest(
    postgres_cluster_to_break: PostgresCluster, tmp_path: Path
) -> None:
    cluster = postgres_cluster_to_break
    cluster.primary.create_database("shop")
    await asyncio.to_thread(cluster.catch_up)
    # Whichever of the two is promoted has all that was acknowledged.
    for statement in ("ALTER SYSTEM SET synchronous_standby_names = '2 (*)'", "SELECT pg_reload_conf()"):
        cluster.primary.run(sql.SQL(statement))
    primary, *replicas = cluster.urls("shop")
    urls = {**embedded_urls(tmp_path), "orders": primary}
    program, gate = Program(urls, PLACE_ORDER, replicas={"orders": replicas}), Gate()
    started: list[UUID] = []
    over = asyncio.Event()

    async def customer() -> None:
        while not over.is_set():
            # Refused, or the outcome is not known: there may be a saga.
            with contextlib.suppress(PolysagaError):
                started.append((await program.sagas.start(program.saga, Order())).id)
            await pause()

    async def all_at_rest() -> bool:
        async with program.handles["orders"].reader(consistency="strong") as db:
            found: int = (await db.execute(UNFINISHED)).scalar_one()  # type: ignore[union-attr,call-overload]
            return found == 0

    async with program.open(lease=4.0):
        program.on("credit_points", gate)  # all that start now are under way when the primary dies
        customers = [asyncio.create_task(customer()) for _ in range(CUSTOMERS)]
        await until(lambda: len(started) >= 10, "ten sagas are started", patience=PATIENCE)
        await gate.reached()
        await asyncio.to_thread(cluster.primary.kill)
        before = len(started)
        await asyncio.to_thread(cluster.replicas[0].promote)
        gate.open()
        await until(
            lambda: len(started) >= before + 10, "ten more are started on the promoted one", patience=PATIENCE
        )
        over.set()
        await asyncio.gather(*customers)
        await until(all_at_rest, "all sagas are at rest", patience=PATIENCE)
        for saga_id in started:
            assert (await program.sagas.get(saga_id)).status == "completed"
            assert set((await program.effects(saga_id)).items()) == {(name, 1) for name, *_ in PLACE_ORDER}
        verified = await program.sagas.verify()
        assert not verified.contradictions
        assert program.databases.routers["orders"].topology.primary == 1

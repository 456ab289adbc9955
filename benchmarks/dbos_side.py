"""The same three steps run by DBOS, as its documentation says: https://docs.dbos.dev/python/programming-guide

`no-op`: steps that do nothing (`@DBOS.step`). `inserts`: steps that insert one row each through a datasource,
which records the step in the same transaction. It has more connections than there are callers, like our
side, and it logs warnings only. Everything else is DBOS' default.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from dbos import DBOS, AsyncSQLAlchemyDatasource, DBOSConfig
from sqlalchemy import insert

from benchmarks.shop import POOL
from benchmarks.side import Places, Side, serve
from benchmarks.trio import STEPS, rows


@DBOS.step()
async def first(number: int) -> int:
    return number


@DBOS.step()
async def second(number: int) -> int:
    return number


@DBOS.step()
async def third(number: int) -> int:
    return number


@DBOS.workflow()
async def no_op(number: int) -> int:
    await first(number)
    await second(number)
    return await third(number)


@asynccontextmanager
async def without_rows(urls: Places) -> AsyncIterator[Side]:
    async def once() -> None:
        await no_op(1)

    with _launched(urls):
        yield Side(once)


@asynccontextmanager
async def with_rows(urls: Places) -> AsyncIterator[Side]:
    datasource = await AsyncSQLAlchemyDatasource.create(
        _for_psycopg(urls["app"]), engine_kwargs={"pool_size": POOL["size"], "max_overflow": POOL["max_overflow"]}
    )

    # The documentation leaves the isolation level at its default, which is SERIALIZABLE; ours is READ COMMITTED.
    @datasource.transaction(isolation_level="READ COMMITTED")
    async def insert_row(step: str, number: int) -> int:
        row = {"id": DBOS.workflow_id, "step": step, "number": number}
        await datasource.sql_session().execute(insert(rows).values(row))
        return number

    @DBOS.workflow()
    async def inserts(number: int) -> int:
        for step in STEPS:
            await insert_row(step, number)
        return number

    async def once() -> None:
        await inserts(1)

    with _launched(urls):
        yield Side(once)


@contextmanager
def _launched(urls: Places) -> Iterator[None]:
    DBOS(config=_config(urls))
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()


def _config(urls: Places) -> DBOSConfig:
    return {
        "name": "benchmark",
        "system_database_url": _for_psycopg(urls["dbos"]),
        "sys_db_pool_size": POOL["size"],
        "log_level": "WARNING",
    }


def _for_psycopg(url: str) -> str:
    return url.replace("postgresql+asyncpg", "postgresql+psycopg")


if __name__ == "__main__":
    serve({"no-op": without_rows, "inserts": with_rows})

"""A reader refuses what is no plain read before SQL leaves the process, on every way a statement can take.

That nothing left is seen on the server: locks, which a read-only session would be given, are not held.
"""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import DDL, Sequence, delete, func, insert, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.databases import MongoDatabase, SqlDatabase
from polysaga.errors import WriteOnReader
from polysaga.routing.guards.constructs import guard
from polysaga.routing.guards.mongo import COLLECTION_WRITES, DATABASE_WRITES
from tests.conformance.shops import MongoShop, Sale, Shelf, SqlShop
from tests.fixtures.corpus import READS

COUNTED = insert(Shelf).values(name="x").returning(Shelf.name).cte("counted")

WRITING: dict[str, Callable[[], Any]] = {
    "INSERT": lambda: insert(Shelf).values(name="x"),
    "UPDATE": lambda: update(Shelf).values(touched=1),
    "DELETE": lambda: delete(Shelf),
    "CTE with DML": lambda: select(COUNTED),
    "CTE beside": lambda: select(Shelf).add_cte(COUNTED),
    "FOR UPDATE": lambda: select(Shelf).with_for_update(),
    "FOR SHARE": lambda: select(Shelf).with_for_update(read=True),
    "FOR NO KEY UPDATE": lambda: select(Shelf).with_for_update(key_share=True, skip_locked=True),
    "FOR UPDATE below": lambda: select(select(Shelf.name).with_for_update().subquery()),
    "a function": lambda: select(func.nextval("numbers")),
    "a function below": lambda: select(Shelf).where(func.pg_try_advisory_lock(1)),
    "a sequence": lambda: select(Sequence("numbers").next_value()),
    "text": lambda: text("INSERT INTO shelves (name, touched) VALUES (:name, 0)").bindparams(name="x"),
    "text in a construct": lambda: select(literal_column("nextval('numbers')")),
    "text in a condition": lambda: select(Shelf).where(text("get_lock('a', 1) = 1")),
    "text for the ORM": lambda: select(Shelf).from_statement(text("SELECT * FROM shelves FOR UPDATE")),
    "DDL": lambda: DDL("DROP TABLE shelves"),
}


@pytest.fixture
async def shelves(sql_shop: SqlShop) -> SqlDatabase:
    handle = SqlDatabase("shop")
    handle.attach((sql_shop.node(connections=1),))
    guard(handle.primary)
    return handle


@pytest.mark.parametrize("kind", WRITING)
async def test_a_construct_that_writes_is_refused(shelves: SqlDatabase, kind: str) -> None:
    if kind == "a sequence" and shelves.primary.dialect.name == "sqlite":
        pytest.skip("SQLite has no sequences")
    async with shelves.reader() as session:
        for _ in range(2):  # judged, and known
            with pytest.raises(WriteOnReader):
                await session.execute(WRITING[kind]())


async def test_a_flush_is_refused_and_the_session_goes_on_after_a_rollback(shelves: SqlDatabase) -> None:
    async with shelves.reader() as session:
        session.add(Sale(receipt="never", item="never"))
        with pytest.raises(WriteOnReader) as raised:
            await session.flush()
        await session.rollback()
        assert (await session.scalars(select(Sale).where(Sale.receipt == "never"))).all() == []

    assert (raised.value.what, raised.value.database) == ("INSERT", "shop")


async def test_the_error_names_the_remedy(shelves: SqlDatabase) -> None:
    async with shelves.reader() as session:
        with pytest.raises(WriteOnReader, match=r"asked for UPDATE .* use shop\.writer\(\)"):
            await session.execute(update(Shelf).values(touched=1))


async def test_the_drivers_own_sql_is_refused(shelves: SqlDatabase) -> None:
    async with shelves.reader() as session:
        connection = await session.connection()
        with pytest.raises(WriteOnReader):
            await connection.exec_driver_sql("/* harmless */ DELETE FROM shelves")
        assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1


async def test_plain_reads_pass(shelves: SqlDatabase, sql_shop: SqlShop, item: str) -> None:
    await sql_shop.put_up(item)

    async with shelves.reader() as session:
        assert (await session.get_one(Shelf, item)).name == item
        named = select(Shelf.name).where(Shelf.name.in_([item, "nobody"]))
        assert (await session.scalars(named)).all() == [item]
        counted = text("SELECT count(*) FROM shelves WHERE name = :name")
        assert await session.scalar(counted, {"name": item}) == 1
        recent = select(Shelf.name).where(Shelf.name == item).cte("recent")
        assert (await session.scalars(select(recent.c.name).prefix_with("DISTINCT"))).all() == [item]
        assert (await session.scalars(select(func.count()).select_from(Shelf))).one() > 0


async def test_a_snapshot_is_guarded_like_any_reader(shelves: SqlDatabase, sql_shop: SqlShop, item: str) -> None:
    async with shelves.reader(snapshot=True) as session:
        assert (await session.scalars(select(Shelf).where(Shelf.name == item))).all() == []
        with pytest.raises(WriteOnReader):
            await session.execute(insert(Shelf).values(name=item, touched=1))


async def test_a_refusal_costs_no_connection(server_shop: SqlShop) -> None:
    handle = SqlDatabase("shop")
    handle.attach((server_shop.node(connections=1),))
    guard(handle.primary)
    who = (
        "SELECT pg_backend_pid()" if server_shop.node().dialect.name == "postgresql" else "SELECT connection_id()"
    )

    async with handle.reader() as session:
        before = await session.scalar(text(who))
    with pytest.raises(WriteOnReader):
        async with handle.reader() as session:
            await session.execute(update(Shelf).values(touched=1))
    async with handle.reader() as session:
        assert await session.scalar(text(who)) == before


async def test_a_lock_that_the_server_would_give_is_never_asked_for(server_shop: SqlShop, item: str) -> None:
    handle = SqlDatabase("shop")
    handle.attach((server_shop.node(connections=1),))
    postgres = server_shop.node().dialect.name == "postgresql"
    lock = "SELECT pg_advisory_lock(4711)" if postgres else "SELECT GET_LOCK('4711', 0)"
    free = (
        "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"
        if postgres
        else "SELECT IS_FREE_LOCK('4711')"
    )

    async def held_after_asking() -> bool:
        async with handle.reader() as session:
            await session.execute(text(lock))
            async with server_shop.observer.connect() as observer:
                return not await observer.scalar(text(free))

    assert await held_after_asking(), "without the guard the read-only session is given the lock"
    await handle.primary.close()
    guard(handle.primary)
    with pytest.raises(WriteOnReader):
        await held_after_asking()
    async with server_shop.observer.connect() as observer:
        assert await observer.scalar(text(free))


async def test_the_writer_is_not_looked_at(shelves: SqlDatabase, sql_shop: SqlShop, item: str) -> None:
    async with shelves.writer() as session:
        session.add(Shelf(name=item, touched=3))
    async with shelves.reader() as session:
        assert await session.scalar(select(Shelf.touched).where(Shelf.name == item)) == 3


async def test_what_the_guard_does_not_understand_meets_the_server(
    shelves: SqlDatabase, sql_shop: SqlShop
) -> None:
    async with AsyncSession(shelves.primary.reader) as session:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
            await session.execute(text("SELEC 1"))
    assert not isinstance(raised.value, WriteOnReader)


async def test_no_plain_read_of_the_corpus_is_refused_on_its_way(shelves: SqlDatabase, sql_shop: SqlShop) -> None:
    async with shelves.reader() as session:
        for line in READS:
            if line.dialect != shelves.primary.dialect.name or any(sign in line.sql for sign in ":%?$#"):
                continue
            if line.sql.startswith(("BEGIN", "START", "COPY")):
                continue
            try:
                await session.execute(text(line.sql))
            except WriteOnReader:
                raise
            except Exception:  # noqa: BLE001 - tables of the corpus do not exist here
                await session.rollback()


@pytest.fixture
async def documents(mongo: MongoShop) -> MongoDatabase:
    handle = MongoDatabase("shop")
    handle.attach((mongo.node(),))
    guard(handle.primary)
    return handle


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "replace_one": ({}, {}),
    "find_one_and_replace": ({}, {}),
    **dict.fromkeys(("drop", "drop_indexes"), ()),
    **dict.fromkeys(("update_one", "update_many", "find_one_and_update"), ({}, {"$set": {"a": 1}})),
    "update_search_index": ("a", {}),
}


@pytest.mark.parametrize("name", COLLECTION_WRITES)
async def test_a_collection_on_a_reader_refuses_to_write(documents: MongoDatabase, name: str) -> None:
    async with documents.reader() as session:
        for collection in (session["sales"], session.database.sales, session["sales"].archive):
            with pytest.raises(WriteOnReader, match=rf"asked for {name} .*shop\.writer\(\)"):
                await getattr(collection, name)(*ARGUMENTS.get(name, ({},)))


@pytest.mark.parametrize("name", DATABASE_WRITES)
async def test_a_database_on_a_reader_refuses_to_write(documents: MongoDatabase, name: str) -> None:
    async with documents.reader() as session:
        with pytest.raises(WriteOnReader):
            await getattr(session.database, name)("sales")


async def test_options_do_not_open_what_is_shut(documents: MongoDatabase) -> None:
    async with documents.reader() as session:
        opened = (
            session["sales"].with_options(),
            session.database.get_collection("sales"),
            session.database.with_options()["sales"],
            session["sales"].database["sales"],
        )
        for collection in opened:
            with pytest.raises(WriteOnReader):
                await collection.insert_one({})


@pytest.mark.parametrize("stage", [{"$out": "copied"}, {"$merge": {"into": "copied"}}])
async def test_an_aggregation_that_writes_is_refused(documents: MongoDatabase, stage: dict[str, Any]) -> None:
    async with documents.reader() as session:
        with pytest.raises(WriteOnReader):
            await session["sales"].aggregate([{"$match": {}}, stage])
        with pytest.raises(WriteOnReader):
            await session["sales"].aggregate_raw_batches([stage])
        with pytest.raises(WriteOnReader):
            await session.database.command("aggregate", "sales", pipeline=[stage], cursor={})


@pytest.mark.parametrize(
    "command", ["drop", {"insert": "sales", "documents": [{}]}, {"findAndModify": "sales"}, "dropDatabase", {}]
)
async def test_a_command_that_is_not_known_to_read_is_refused(documents: MongoDatabase, command: Any) -> None:
    async with documents.reader() as session:
        with pytest.raises(WriteOnReader):
            await session.database.command(command)


async def test_documents_are_read_as_ever(documents: MongoDatabase, mongo: MongoShop, item: str) -> None:
    async with documents.writer() as session:
        await mongo.sell(session, item, receipt=item)

    async with documents.reader() as session:
        sales = session["sales"]
        assert await sales.find_one({"_id": item}) == {"_id": item, "item": item}
        assert [sale["_id"] async for sale in sales.find({"item": item})] == [item]
        assert await sales.count_documents({"item": item}) == 1
        assert await sales.distinct("item", {"item": item}) == [item]
        found = await sales.aggregate([{"$match": {"item": item}}])
        assert [sale["_id"] async for sale in found] == [item]
        assert (await session.database.command("ping"))["ok"] == 1
        assert "sales" in await session.database.list_collection_names()
        assert (sales.name, sales.archive.name, sales.full_name) == (
            "sales",
            "sales.archive",
            f"{sales.database.name}.sales",
        )

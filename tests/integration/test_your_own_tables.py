"""A program's own migrations leave our tables alone, and the guide's set-up for several databases works."""

import asyncio
import re
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from polysaga.migrations import include_name, include_object
from polysaga.migrations.ours import TABLES
from polysaga.sagas.journal.tables import metadata
from tests.fixtures.programs import PLACE_ORDER, Order, Program, Urls
from tests.fixtures.setups import embedded_urls

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your-own-tables.md"


def proposed(connection: Connection, mine: MetaData, **options: object) -> str:
    context = MigrationContext.configure(connection, opts={"target_metadata": mine, **options})
    operations = produce_migrations(context, mine).upgrade_ops
    assert operations is not None
    return str(render_python_code(operations))


async def test_autogenerate_proposes_nothing_about_our_tables(urls: Urls) -> None:
    mine = MetaData()
    Table("mine", mine, Column("id", Integer, primary_key=True))
    for name, url in urls.items():
        if url.startswith("mongodb"):
            continue
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            there = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
            assert {one for one in there if one.startswith("polysaga")} <= TABLES
            assert (name == "orders") == ("polysaga_journal" in there)
            naive = await connection.run_sync(proposed, mine)
            assert "op.drop_table('polysaga_ledger')" in naive  # what this is about
            for options in ({"include_name": include_name}, {"include_object": include_object}):
                told = await connection.run_sync(lambda sync, more=options: proposed(sync, mine, **more))
                assert "polysaga" not in told
                assert "create_table('mine'" in told
            reflected = MetaData()
            await connection.run_sync(reflected.reflect)
            both = {"include_name": include_name, "include_object": include_object}
            told = await connection.run_sync(lambda sync, all_=reflected, more=both: proposed(sync, all_, **more))
            assert "polysaga" not in told
        await engine.dispose()


def test_our_tables_say_that_they_are_ours() -> None:
    assert {table.name for table in metadata.tables.values()} < TABLES
    assert all(table.info["polysaga"] for table in metadata.tables.values())


def test_the_guide_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = embedded_urls(tmp_path)
    program = Program(urls, PLACE_ORDER)

    async def place(times: int) -> None:
        async with program.open():
            for _ in range(times):
                await program.sagas.run(program.saga, Order(), timeout=30)

    asyncio.run(place(1))
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), re.M | re.S))
    command.init(Config(tmp_path / "new.ini"), str(tmp_path / "migrations"))
    (tmp_path / "alembic.ini").write_text(blocks["ini"])
    (tmp_path / "tables.py").write_text(blocks["py"])
    (tmp_path / "migrations" / "env.py").write_text(blocks["python"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, url in urls.items():
        monkeypatch.setenv(f"POLYSAGA_DATABASES__{name.upper()}__URL", url)
    for name, table in (("orders", "orders"), ("points", "accounts")):
        config = Config(tmp_path / "alembic.ini", ini_section=name)
        command.revision(config, message=name, autogenerate=True)
        (script,) = (tmp_path / "migrations" / name).glob("*.py")
        upgrade, _, downgrade = script.read_text().partition("def downgrade")
        assert "polysaga" not in script.read_text()
        assert f"create_table('{table}'" in upgrade
        assert f"drop_table('{table}'" in downgrade
        # `effects` is the program's as well, and not in the guide's metadata.
        script.write_text(script.read_text().replace("op.drop_table('effects')", "pass"))
        command.upgrade(config, "head")
    asyncio.run(place(1))

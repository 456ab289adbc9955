"""What the dialects say of an error that is the program's own, whatever it holds: that it is not theirs."""

from types import SimpleNamespace

import pytest

from polysaga.databases.dialects import fault_of
from polysaga.databases.dialects.errors import said_of_database
from polysaga.databases.dialects.mysql import MySQL
from polysaga.databases.dialects.postgres_asyncpg import PostgresAsyncpg
from polysaga.databases.dialects.postgres_psycopg import PostgresPsycopg
from polysaga.databases.dialects.sql import SqlDialect
from polysaga.databases.dialects.sqlite import SQLite
from polysaga.loading import load_module
from tests.fixtures.aliens import ALIENS

driver = load_module("asyncmy").errors
DIALECTS = [MySQL(), SQLite(), PostgresAsyncpg(), PostgresPsycopg()]
NOT_IN_TRANSACTION = SimpleNamespace(in_transaction=False)  # what SQLite asks of its driver


def name_of(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__name__}{error.args!r}"


@pytest.mark.parametrize("error", ALIENS, ids=name_of)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: type(dialect).__name__)
def test_an_error_of_the_program_is_not_the_databases(dialect: SqlDialect, error: Exception) -> None:
    assert dialect.fault(error) is None
    assert dialect.said(error) is None
    assert not dialect.lost_at(error, NOT_IN_TRANSACTION)
    assert not dialect.misses_savepoint(error, NOT_IN_TRANSACTION)
    assert not dialect.refuses_commit(error)


@pytest.mark.parametrize("error", ALIENS, ids=name_of)
def test_no_kind_of_database_knows_it(error: Exception) -> None:
    assert fault_of(error) is None
    told = said_of_database(error)
    assert told is None or "account" not in told


@pytest.mark.parametrize(("code", "lost"), [(1213, True), (1020, True), (1206, True), (1205, False)])
def test_the_errors_at_which_innodb_rolls_everything_back(code: int, lost: bool) -> None:
    """Also when its table of locks is full (1206); at a lock timeout only if a setting says so."""
    assert MySQL().lost_at(driver.OperationalError(code, "its text"), None) is lost

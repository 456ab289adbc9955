"""What happens to a lent connection, seen by its engine: errors, and whatever would end the step's transaction.

A driver error inside the transaction, outside a savepoint, dooms it even if the code swallows the error.
Otherwise, after a deadlock, InnoDB would roll back silently, let the code go on and commit only the second half of
the step. Statements that commit implicitly on MySQL and MariaDB are refused before they are sent.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.pool import PoolProxiedConnection

from polysaga.databases import SqlNode
from polysaga.databases.dialects.sql import LOAN, SEALED
from polysaga.errors import StepMisused
from polysaga.sagas.participants.implicit_commits import calls_procedure, ends_transaction
from polysaga.sagas.participants.loans import AUTOCOMMIT

# Not `event.contains`: it takes a new engine for one that is gone if it got the same place in memory.
_watched: WeakSet[Engine] = WeakSet()


def watch(node: SqlNode) -> None:
    """Make the engine of *node* report what happens on lent connections; harmless when repeated.

    The hooks are the dialect's: a single listener on a connection's own events (`before_cursor_execute`,
    `commit`) would make SQLAlchemy prepare the dispatch of all of them, anew for every connection.
    """
    engine = node.writer.sync_engine
    if engine in _watched:
        return
    _watched.add(engine)
    event.listen(engine, "handle_error", _doom)
    for execution in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, execution, partial(_refuse_ending, node.dialect.name))
    if node.dialect.name == "mysql":
        event.listen(engine, "do_execute", _watch_call)
    dialect: Any = engine.dialect
    dialect.do_begin = partial(_note_begin, dialect.do_begin)
    dialect.do_commit = partial(_commit_unless_lent, dialect.do_commit)
    dialect.set_connection_execution_options = partial(
        _refuse_autocommit, dialect.set_connection_execution_options
    )


def _doom(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return  # the server commits nothing of it
    loan = connection.info.get(LOAN)
    if loan is None:
        return
    error = context.sqlalchemy_exception or context.original_exception
    if loan.misses_savepoint(context.original_exception):
        # The transaction ended unnoticed, as at a lock timeout with innodb_rollback_on_timeout: the error inside
        # the savepoint is the cause.
        loan.doom = loan.doom or loan.nested or error
    elif not connection.in_nested_transaction() or loan.is_lost_at(context.original_exception):
        loan.doom = error
    else:
        loan.nested = error


def _note_begin(do_begin: Callable[[PoolProxiedConnection], None], lent: PoolProxiedConnection) -> None:
    loan = lent.info.get(LOAN)
    if loan is not None:
        loan.begins += 1
    do_begin(lent)


def _refuse_autocommit(
    set_options: Callable[[Connection, Mapping[str, Any]], None],
    connection: Connection,
    options: Mapping[str, Any],
) -> None:
    if options.get("isolation_level") == "AUTOCOMMIT" and LOAN in connection.info:
        raise StepMisused(AUTOCOMMIT)
    set_options(connection, options)


def _commit_unless_lent(do_commit: Callable[[PoolProxiedConnection], None], lent: PoolProxiedConnection) -> None:
    loan = lent.info.get(LOAN)
    if loan is not None and loan.lent:
        # SQLAlchemy treats a failed commit as the end of the transaction; the server does not.
        loan.drop()
        raise StepMisused("a step called commit() on its connection: the transaction ends with the step")
    if lent.info.pop(SEALED, False):
        return
    if loan is not None:
        loan.refuse_another_transaction()
    do_commit(lent)


def _refuse_ending(dialect: str, cursor: Any, statement: str, *rest: Any) -> None:
    if ends_transaction(dialect, statement) and LOAN in rest[-1].root_connection.info:
        raise StepMisused(
            f"a step sent {statement.strip()[:60]!r}: it ends the step's transaction, or commits implicitly as "
            "DDL and programs do on MySQL and MariaDB, or is several statements in one; the transaction ends "
            "with the step: send statements one by one, and use begin_nested() for a part that may fail"
        )


def _watch_call(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Call a procedure between two marks: the savepoint is gone if the transaction ended in between."""
    loan = context.root_connection.info.get(LOAN) if calls_procedure(statement) else None
    if loan is None:
        return False
    if cursor.server_side:
        raise StepMisused(f"a step streamed {statement.strip()[:60]!r}: execute a procedure, do not stream it")
    marks = context.root_connection.connection.cursor()
    marks.execute("SAVEPOINT polysaga_call")
    cursor.execute(statement, parameters)
    try:
        marks.execute("RELEASE SAVEPOINT polysaga_call")
    except context.dialect.loaded_dbapi.Error as error:
        loan.drop()
        raise StepMisused(
            f"a step sent {statement.strip()[:60]!r}, and the procedure ended the step's transaction: what the "
            "step had written before is committed; take COMMIT, ROLLBACK and DDL out of the procedure"
        ) from error
    finally:
        marks.close()
    return True

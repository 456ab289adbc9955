"""The text of the statements of owners on the journal, for one dialect.

Claims are in `claims.py`, what people ask in `queries.py`, what removes old rows in `process/retention.py`.
Each write names the status it expects; `states.TRANSITIONS` is the table of allowed transitions.
"""

from collections.abc import Mapping

from polysaga.databases.dialects import Rendered, SqlDialect
from polysaga.sagas.journal.tables import AUDIT, JOURNAL, LEDGER, NEVER

_FINAL = "('completed', 'compensated')"


def statements(dialect: SqlDialect) -> dict[str, Rendered]:
    """Return every statement of the journal by its name, in the placeholders of the driver."""
    ours = "id = :id AND epoch = :epoch AND owner = :owner AND status"  # followed by the status that is expected
    awake = f"wake_at = {dialect.later(':lease')}"
    rest = f"wake_at = NULL, finished_at = {dialect.clock}"
    columns = (
        "id, name, version, fingerprint, saga_key, input, input_hash, status, epoch, owner, results, error, "
        "history, trace, lease, deadline, wake_at, created_at, finished_at"
    )
    values = ", ".join(f":{name}" for name in columns.split(", ")[:-4])  # the last four come from the clock
    born = (
        f"{dialect.later(':deadline')}, {dialect.later(':lease')}, {dialect.clock}, "
        f"CASE WHEN :final = 1 THEN {dialect.clock} END"
    )
    due = f"{dialect.later(':deadline')}, {dialect.clock}, {dialect.clock}, NULL"
    dual = "FROM dual " if dialect.name == "mysql" else ""
    fenced = f"SELECT {values}, {due} {dual}WHERE {dialect.clock} < :not_after"
    update = f"UPDATE {JOURNAL} SET"
    texts = {
        # The insert comes last: the lease begins when the row becomes visible, however long the first step took.
        "insert": f"INSERT INTO {JOURNAL} ({columns}) VALUES ({values}, {born})",
        # Due at once: the first worker to tick drives it. The row's owner shows whether this start inserted it.
        "enlist": f"INSERT INTO {JOURNAL} ({columns}) VALUES ({values}, {due}) {unless_it_exists(dialect)}",
        # The same, but not past the fence: by then the saga may have run before and been removed.
        "enlist_fenced": f"INSERT INTO {JOURNAL} ({columns}) {fenced} {unless_it_exists(dialect)}",
        "born": f"SELECT owner, input_hash FROM {JOURNAL} WHERE id = :id",
        "input": f"SELECT input, fingerprint FROM {JOURNAL} WHERE id = :id",
        "load": f"SELECT {columns_of_row(dialect)} FROM {JOURNAL} WHERE id = :id",
        # These and `go_forward` do not prolong the claim; the worker's ticks do. `wake_at` is in an index, and on
        # PostgreSQL an update stays in its page (HOT) only if it changes no column of an index.
        "decide": f"{update} status = 'completing', results = :results WHERE {ours} = 'running'",
        "compensate": f"{update} status = 'compensating', error = :error WHERE {ours} = 'running'",
        # id and epoch are selected from the journal, so they have its column types.
        "record_call": (
            f"INSERT INTO {LEDGER} (saga_id, step, state, epoch, result, recorded_at) "
            f"SELECT id, :step, 'done', epoch, :result, {dialect.clock} FROM {JOURNAL} "
            f"WHERE {ours} IN ('running', 'completing')"
        ),
        "undo_call": (
            f"UPDATE {LEDGER} SET state = 'compensated', epoch = :epoch, recorded_at = {dialect.clock} "
            "WHERE saga_id = :id AND step = :step AND state IN ('done', 'blocked') "
            f"AND {dialect.clock} < :not_after"
        ),
        # The saga is decided, so the deadline no longer applies.
        "go_forward": f"{update} status = 'running', error = NULL, deadline = NULL WHERE {ours} = 'compensating'",
        "finish": (
            f"{update} status = :status, {rest}, results = :results, history = :history WHERE {ours} = :expected"
        ),
        "park": (
            f"{update} status = 'needs_attention', owner = NULL, wake_at = {NEVER}, error = :error, "
            f"history = :history WHERE {ours} = :expected"
        ),
        "postpone": (
            f"{update} owner = NULL, wake_at = {dialect.later(':seconds')}, history = :history, expiries = 0 "
            f"WHERE {ours} IN ('running', 'completing', 'compensating')"
        ),
        # 1: this owner's own claim, if it is lost, too.
        "progress": (
            f"{update} progress = :progress, expiries = 1 "
            f"WHERE {ours} IN ('running', 'completing', 'compensating')"
        ),
        # Claim and decision in one write: the previous owner loses it, a pivot in this database comes too late.
        "cancel": (
            f"{update} error = :error, status = 'compensating', epoch = epoch + 1, owner = :owner, "
            f"lease = :lease, {awake} WHERE id = :id AND status = 'running'"
        ),
        # A person's claim on a saga that no process drives; a parked saga stays parked meanwhile.
        "take_for_person": (
            f"{update} epoch = epoch + 1, owner = :owner, lease = :lease, "
            f"wake_at = CASE WHEN status = 'needs_attention' THEN wake_at ELSE {dialect.later(':lease')} END "
            "WHERE id = :id AND epoch = :epoch AND status = :expected"
        ),
        "repair": (
            f"{update} status = :status, epoch = epoch + 1, owner = NULL, expiries = 0, results = :results, "
            "deadline = NULL, "
            f"error = :error, wake_at = CASE WHEN :final = 0 THEN {dialect.clock} END, "
            f"finished_at = CASE WHEN :final = 1 THEN {dialect.clock} END "
            "WHERE id = :id AND epoch = :epoch AND status = :expected"
        ),
        "audit": (
            f"INSERT INTO {AUDIT} (id, saga_id, recorded_at, actor, action, why, details) "
            f"VALUES (:id, :saga_id, {dialect.clock}, :actor, :action, :why, :details)"
        ),
        "insert_many": _insert_many(dialect, columns),
        **_batch_texts(dialect),
    }
    return {name: dialect.render(text) for name, text in texts.items()}


def _insert_many(dialect: SqlDialect, columns: str) -> str:
    """Return the statement that does for many rows what `insert` does for one; they share a lease."""
    kinds = {"id": "uuid", "version": "bigint", "epoch": "bigint", "owner": "uuid", "final": "bigint"}
    stored = columns.split(", ")[:-5]
    # A deadline comes as text, of which every dialect makes a number.
    given = {name: kinds.get(name, "text") for name in (*stored, "deadline", "final")}
    values = [dialect.key_of(f"given.{name}") if given[name] == "uuid" else f"given.{name}" for name in stored]
    lease = ":lease" if dialect.name == "mysql" else "cast(:lease AS double precision)"
    values += [
        f"CASE WHEN given.final = 0 THEN {lease} END",
        dialect.later("given.deadline"),
        f"CASE WHEN given.final = 0 THEN {dialect.later(':lease')} END",
        dialect.clock,
        f"CASE WHEN given.final = 1 THEN {dialect.clock} END",
    ]
    return f"INSERT INTO {JOURNAL} ({columns}) SELECT {', '.join(values)} FROM {dialect.rows_of(given)}"


def columns_of_row(dialect: SqlDialect) -> str:
    """Return the columns that `Journal` makes a `Row` of; `remaining` and `youth` are in seconds by its clock."""
    return (
        "id, status, epoch, owner, name, fingerprint, input, input_hash, results, error, history, expiries, "
        f"progress, trace, {dialect.seconds_until('deadline')} AS remaining, "
        f"{dialect.seconds_until('created_at')} AS youth"
    )


def unless_it_exists(dialect: SqlDialect) -> str:
    """Return the end of an INSERT that leaves a row with the same id alone."""
    # Not INSERT IGNORE, which would ignore other errors as well.
    return "ON CONFLICT (id) DO NOTHING" if dialect.returns_rows else "ON DUPLICATE KEY UPDATE id = id"


def _batch_texts(dialect: SqlDialect) -> dict[str, str]:
    """Return the statements that change many rows at once; the rows come as one JSON parameter."""
    claimed = {"saga_id": "uuid", "owner": "uuid"}
    told = {
        "saga_id": "uuid",
        "owner": "uuid",
        "epoch": "bigint",
        "expected": "text",
        "status": "text",
        "results": "text",
        "history": "text",
    }
    same = f"j.id = {dialect.key_of('given.saga_id')} AND j.owner = {dialect.key_of('given.owner')}"
    live = f"{same} AND j.status NOT IN {_FINAL}"
    finishing = f"{same} AND j.epoch = given.epoch AND j.status = given.expected"
    ending = {
        "status": "given.status",
        "wake_at": "NULL",
        "finished_at": dialect.clock,
        "results": "given.results",
        "history": "given.history",
    }

    def update(setting: Mapping[str, str], given: Mapping[str, str], where: str) -> str:
        if dialect.returns_rows:
            assigned = ", ".join(f"{column} = {value}" for column, value in setting.items())
            return f"UPDATE {JOURNAL} AS j SET {assigned} FROM {dialect.rows_of(given)} WHERE {where} RETURNING id"
        assigned = ", ".join(f"j.{column} = {value}" for column, value in setting.items())
        # Force the primary key: a scan of a small table would wait for rows that others have locked.
        table = f"{JOURNAL} AS j FORCE INDEX (PRIMARY)"
        return f"UPDATE {dialect.rows_of(given)} STRAIGHT_JOIN {table} ON {where} SET {assigned}"

    def found(given: Mapping[str, str], where: str) -> str:
        return f"SELECT j.id FROM {dialect.rows_of(given)} JOIN {JOURNAL} AS j ON {where}"

    return {
        "finish_many": update(ending, told, finishing),
        "renew_many": update(
            {"wake_at": dialect.later(":lease"), "history": "given.history"},
            {**claimed, "history": "text"},
            live,
        ),
        "hand_back_many": update({"wake_at": dialect.clock, "expiries": "0"}, claimed, live),
        "finish_many_found": found(told, f"{same} AND j.epoch = given.epoch AND j.status = given.status"),
        "renew_many_found": found({**claimed, "history": "text"}, live),
        "hand_back_many_found": found(claimed, live),
        "standings": _standings(dialect),
    }


def _standings(dialect: SqlDialect) -> str:
    """Return the statement that looks at many sagas; results can be large, so only a decided saga has them."""
    results = "CASE WHEN j.status IN ('completing', 'completed') THEN j.results END AS results"
    columns = f"j.id, j.epoch, j.owner, j.name, j.fingerprint, j.status, {results}, j.error"
    # The plan begins with the few ids, as in the statements that change many rows.
    begin, table = "SELECT", f"JOIN {JOURNAL} AS j"
    if not dialect.returns_rows:
        begin, table = "SELECT STRAIGHT_JOIN", f"JOIN {JOURNAL} AS j FORCE INDEX (PRIMARY)"
    given = dialect.rows_of({"saga_id": "uuid"})
    return f"{begin} {columns} FROM {given} {table} ON j.id = {dialect.key_of('given.saga_id')}"

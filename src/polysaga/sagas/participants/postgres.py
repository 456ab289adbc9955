"""The ledger on PostgreSQL. A SELECT without a table needs its parameters typed; nothing else differs."""

from polysaga.sagas.participants.sql import SqlParticipant

_TYPES = {
    ":saga_id": "uuid",
    ":step": "varchar",
    ":state": "varchar",
    ":epoch": "bigint",
    ":result": "text",
    ":not_after": "timestamptz",
}


class PostgresParticipant(SqlParticipant):
    """Correct at READ COMMITTED, which the engine sets; a step may ask for more and is then retried on 40001."""

    def _typed(self, expressions: str) -> str:
        for name, kind in _TYPES.items():
            expressions = expressions.replace(name, f"cast({name} AS {kind})")
        return expressions

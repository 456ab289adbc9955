"""The ledger on PostgreSQL."""

from polysaga.sagas.journal.tables import LEDGER
from polysaga.sagas.participants.sql import SqlParticipant


class PostgresParticipant(SqlParticipant):
    """Correct at READ COMMITTED, which the engine sets; a step may ask for more and is then retried on 40001."""

    def _done_text(self, columns: str, values: str) -> str:
        # Past the fence it divides by zero, which `Postgres.seal` expects; SELECT ... WHERE costs the server more.
        fenced = "cast(:epoch AS bigint) / cast(clock_timestamp() < :not_after AS int)"
        return f"INSERT INTO {LEDGER} ({columns}) VALUES ({values.replace(':epoch', fenced)})"

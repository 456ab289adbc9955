"""The ledger on SQLite: one writer at a time, `BEGIN IMMEDIATE`, so nothing ever conflicts within a file.

There is no server and therefore no limit on a frozen process inside a transaction: it blocks every writer of
the file until it dies. That is the price of the embedded default.
"""

from polysaga.sagas.participants.sql import SqlParticipant


class SQLiteParticipant(SqlParticipant):
    """SQLite needs only what the SQL databases have in common."""

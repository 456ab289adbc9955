"""Semantic locks: a row names the saga that works on it, until that saga ends.

Sagas are not isolated: any transaction sees what a step commits, while the saga can still be undone. A database
lock ends with the step's transaction. A semantic lock is a column of the user's own row, written in the step's
transaction, and ends with the saga (Garcia-Molina and Salem, 1987; Richardson, "Microservices Patterns", 4.3.2).
So it is as durable as the step and is rolled back if the step is refused. Others see it in their queries, in their
own `WHERE`, and when they call `acquire`.

The row is the only source of truth. `acquire` is one conditional update, so only one of two concurrent sagas
gets the row; repeating it is harmless. The saga itself releases the row, in its last step and in the compensation
of the step that locked it.
"""

from typing import Any, cast
from uuid import UUID

from sqlalchemy import Column, CursorResult, Table, Uuid, column, or_, select, table, update
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.databases import MongoSession
from polysaga.errors import RowLocked, StillLocked
from polysaga.sagas.definition.step import StepContext


class SemanticLock:
    """The lock on each row of one table, or each document of one collection.

    *rows* is a SQLAlchemy table with a nullable column *mark* for a UUID or a text of 36 characters, or the name
    of a table or of a collection. *key* is the column that names a row; in a collection it is always `_id`.
    """

    def __init__(self, rows: Table | str, *, key: str = "id", mark: str = "locked_by") -> None:
        self.name, self.mark = (rows if isinstance(rows, str) else rows.name), mark
        self._table = table(rows, column(key), column(mark)) if isinstance(rows, str) else rows
        self._key, self._mark = cast("Column[Any]", self._table.c[key]), cast("Column[Any]", self._table.c[mark])

    async def acquire(
        self, db: AsyncSession | MongoSession, key: Any, ctx: StepContext, *, wait: bool = False
    ) -> bool:
        """Lock the row *key* for this saga, with the step's commit; return False if there is no such row.

        Harmless if this saga holds the lock already. If another saga holds it, raises `RowLocked`, a refusal, so
        this saga is undone. With *wait* raises `StillLocked` instead: the step is retried as long as its `retry`
        says.
        """
        if await self._take(db, key, ctx):
            return True
        found = await self._find(db, key)
        if found is None:
            return False
        (holder,) = found
        if wait or holder is None:  # released between our two statements
            raise StillLocked(self.name, str(key), holder)
        raise RowLocked(
            f"'{key}' in {self.name} is locked by saga {holder}; try again when that has ended",
            rows=self.name,
            key=str(key),
            locked_by=str(holder),
        )

    async def release(self, db: AsyncSession | MongoSession, key: Any, ctx: StepContext) -> None:
        """Release the row, with the step's commit, if this saga holds the lock."""
        if isinstance(db, MongoSession):
            mine = {"_id": key, self.mark: str(ctx.saga_id)}
            await db[self.name].update_one(mine, {"$set": {self.mark: None}})
            return
        mine_too = (self._key == key, self._mark == self._stored(ctx.saga_id))
        await db.execute(update(self._table).where(*mine_too).values({self._mark.name: None}))

    async def holder(self, db: AsyncSession | MongoSession, key: Any) -> UUID | None:
        """Return the id of the saga that holds the row; None if the row is free or does not exist."""
        found = await self._find(db, key)
        return None if found is None else found[0]

    async def _take(self, db: AsyncSession | MongoSession, key: Any, ctx: StepContext) -> bool:
        if isinstance(db, MongoSession):
            mine = str(ctx.saga_id)
            free = {"_id": key, self.mark: {"$in": [None, mine]}}
            changed = await db[self.name].update_one(free, {"$set": {self.mark: mine}})
            return bool(changed.matched_count)
        ours = self._stored(ctx.saga_id)
        statement = (
            update(self._table)
            .where(self._key == key, or_(self._mark.is_(None), self._mark == ours))
            .values({self._mark.name: ours})
        )
        result = cast("CursorResult[Any]", await db.execute(statement))
        return result.rowcount == 1

    async def _find(self, db: AsyncSession | MongoSession, key: Any) -> tuple[UUID | None] | None:
        if isinstance(db, MongoSession):
            document = await db[self.name].find_one({"_id": key}, {self.mark: 1})
            return None if document is None else (_as_uuid(document.get(self.mark)),)
        row = (await db.execute(select(self._mark).where(self._key == key))).first()
        return None if row is None else (_as_uuid(row[0]),)

    def _stored(self, saga_id: UUID) -> UUID | str:
        return saga_id if isinstance(self._mark.type, Uuid) else str(saga_id)


def _as_uuid(stored: Any) -> UUID | None:
    return None if stored is None else UUID(str(stored))

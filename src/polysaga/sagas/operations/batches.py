"""Repairs of many sagas, in the background of one process.

The sagas are chosen once (`Batches.freeze`), so a person repairs those that the page counted and no later ones.
Each repair is one of its own, with its own line in the audit trail that names the batch. If the process dies, the
sagas that it has not come to are as they were: the person repairs them again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from polysaga.clock import Clock
from polysaga.errors import PolysagaError
from polysaga.sagas.definition.identity import id_from_time
from polysaga.sagas.journal.figures import Figures
from polysaga.sagas.journal.views import SagaFilter
from polysaga.sagas.operations.findings import BatchProgress, Frozen
from polysaga.sagas.operations.repairs import Repair, Repairs, check_order
from polysaga.sagas.protocol.repair_rules import RepairOrder
from polysaga.texts import said

MOST = 100_000  # sagas of one batch
_PAGE = 1000  # sagas that are found at once
_SIDE_BY_SIDE = 4  # repairs
_KEPT = 50  # batches whose outcome this process remembers
_SILENT = timedelta(seconds=60)  # without a line in the audit trail: a batch of another process has ended


@dataclass(slots=True)
class _Batch:
    id: UUID
    order: RepairOrder
    ids: Collection[UUID]
    began_at: datetime
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    ended_at: datetime | None = None
    problem: str | None = None
    stopped_by: str | None = None


class Batches:
    """The batches of one process; *repairs* makes what carries out one repair, *figures* what reads the trail."""

    def __init__(self, repairs: Callable[[], Repairs], figures: Callable[[], Figures], clock: Clock) -> None:
        self._repairs, self._figures, self._clock = repairs, figures, clock
        self._batches: dict[UUID, _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def freeze(self, wanted: SagaFilter) -> Frozen:
        """Return the ids of what *wanted* finds now (`SagaFilter.to_repair`), at most 100,000."""
        wanted = wanted.to_repair()
        catalogue, after = self._repairs().catalogue, None
        ids: list[UUID] = []
        while len(ids) < MOST:
            page = await catalogue.find(wanted, limit=_PAGE, after=after)
            ids += [saga.id for saga in page.sagas]
            after = page.next
            if after is None:
                break
        return Frozen(tuple(ids[:MOST]), complete=after is None and len(ids) <= MOST)

    def begin(self, order: RepairOrder, ids: Collection[UUID]) -> UUID:
        """Begin to carry out *order* on all *ids* in a task of this process; return the batch's id."""
        check_order(order)
        now = self._clock.now()
        batch = _Batch(id_from_time(now), order, ids, now)
        self._batches[batch.id] = batch
        for old in [one for one, its in self._batches.items() if its.ended_at is not None][:-_KEPT]:
            del self._batches[old]
        task = asyncio.create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(batch, ended))
        return batch.id

    async def progress(self, batch_id: UUID) -> BatchProgress | None:
        """Return how far a batch is; None if no process has repaired anything in it.

        Of a batch of another process it is known what the audit trail has.
        """
        batch = self._batches.get(batch_id)
        if batch is None:
            return await self._elsewhere(batch_id)
        return BatchProgress(
            id=batch_id,
            action=batch.order.action.value,
            by=batch.order.by,
            why=batch.order.why,
            total=len(batch.ids),
            done=batch.done,
            refused=dict(batch.refused),
            began_at=batch.began_at,
            ended_at=batch.ended_at,
            here=True,
            problem=batch.problem,
            stopped_by=batch.stopped_by,
        )

    def stop(self, batch_id: UUID, by: str) -> bool:
        """Begin no more repairs of a batch; return whether this process works on it."""
        batch = self._batches.get(batch_id)
        if batch is None or batch.ended_at is not None:
            return False
        batch.stopped_by = batch.stopped_by or by
        return True

    @property
    def tasks(self) -> Collection["asyncio.Task[None]"]:
        """The tasks of the batches under way; what one that is cancelled has not repaired stays as it is."""
        return self._tasks

    async def _run(self, batch: _Batch) -> None:
        order = replace(batch.order, batch=batch.id, batch_size=len(batch.ids))
        waiting = iter(tuple(batch.ids))

        async def work() -> None:
            for saga_id in waiting:
                await self._repair(batch, saga_id, order)
                if batch.stopped_by is not None:
                    return

        async with asyncio.TaskGroup() as workers:
            for _ in range(_SIDE_BY_SIDE):
                workers.create_task(work())

    def _ended(self, batch: _Batch, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        batch.ended_at = self._clock.now()
        if task.cancelled():
            batch.problem = "this process ends"
            return
        error = task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        batch.problem = None if error is None else said(error)

    async def _repair(self, batch: _Batch, saga_id: UUID, order: RepairOrder) -> None:
        try:
            repairs: tuple[Repair, ...] = await self._repairs().carry_out(saga_id, order, dry_run=False, limit=1)
        except PolysagaError as error:
            batch.refused[_without_ids(said(error), saga_id)] += 1
        else:
            batch.done += sum(one.done for one in repairs)

    async def _elsewhere(self, batch_id: UUID) -> BatchProgress | None:
        found = await self._figures().batch(batch_id)
        if found is None:
            return None
        count, total, first, last, now = found
        is_over = (total is not None and count >= total) or last.at < now - _SILENT
        return BatchProgress(
            id=batch_id,
            action=last.action,
            by=last.by,
            why=last.why,
            total=total,
            done=count,
            refused={},
            began_at=first,
            ended_at=last.at if is_over else None,
            here=False,
            problem=None,
            stopped_by=None,
        )


def _without_ids(told: str, saga_id: UUID) -> str:
    """Return *told* without the saga's own id, so that equal refusals are counted as one."""
    return told.replace(f" {saga_id}", "").replace(str(saga_id), "…")

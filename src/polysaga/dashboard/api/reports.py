"""Facts as bodies of answers; what is masked leaves them here."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from polysaga.dashboard.api.bodies import (
    AuditItem,
    AuditList,
    ContradictionItem,
    DatabaseReport,
    LedgerAnswer,
    LedgerRecord,
    ListedSaga,
    NodeReport,
    OrderOutcome,
    SagaExamined,
    SagaList,
    UnfinishedNow,
)
from polysaga.dashboard.masking import decoded, without
from polysaga.dashboard.screens.listing import comes_next, going_on, masked_in, masked_values
from polysaga.dashboard.screens.nodes import DatabaseFacts, state
from polysaga.dashboard.site import Site
from polysaga.sagas import Attempt, AuditPage, Cause, Examination, Overview, Repair, SagaPage, SagaSummary


class Reports:
    """The bodies, with the mask of *site*."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def overview(self, found: Overview) -> UnfinishedNow:
        """Return how many sagas are unfinished, why some are parked, which are late, and the oldest."""
        # An example may contain a masked value; the message has what differs removed.
        causes = [_plain_cause(one, masking=bool(self._site.mask.names)) for one in found.causes]
        return UnfinishedNow(
            at=found.at,
            unfinished=dict(found.unfinished),
            waiting=found.waiting,
            crashing=found.crashing,
            late=list(found.late),
            causes=causes,
            causes_complete=found.causes_complete,
            oldest=[self._listed(one, found.at) for one in found.oldest],
        )

    def page(self, found: SagaPage, now: datetime) -> SagaList:
        """Return one page of a list."""
        sagas = [self._listed(one, now) for one in found.sagas]
        return SagaList(sagas=sagas, next=found.next, searched_to=found.searched_to)

    def audit(self, found: AuditPage) -> AuditList:
        """Return one page of what people did."""
        return AuditList(
            lines=[
                AuditItem(
                    at=line.at,
                    by=line.by,
                    action=line.action,
                    why=line.why,
                    saga_id=line.saga_id if line.count == 1 else None,
                    saga=line.saga,
                    batch=line.batch,
                    count=line.count,
                    details=self._site.mask.data(line.details),
                )
                for line in found.lines
            ],
            next=found.next,
        )

    def saga(self, found: Examination) -> SagaExamined:
        """Return everything about one saga."""
        saga, mask = found.saga, self._site.mask
        hidden = masked_in(found, mask)
        cause = None if saga.error is None else saga.error.parked or saga.error
        trace = None if cause is None else cause.traceback
        return SagaExamined(
            **self._facts(saga, found.at, hidden),
            input=mask.data(decoded(saga.input)),
            facts=None if cause is None else mask.data(cause.facts),
            traceback=None if trace is None else without(trace, hidden),
            late=found.late,
            alike=found.alike,
            removed_at=found.removed_at,
            steps=list(found.steps),
            history=[_hiding(one, hidden) for one in saga.history],
            owners=list(saga.owners),
            ledgers=[
                LedgerAnswer(
                    database=look.database,
                    is_journal=look.is_journal,
                    rows=[
                        LedgerRecord(
                            step=step,
                            state=row.state.value,
                            result=None if row.result is None else mask.data(decoded(row.result)),
                        )
                        for step, row in look.rows.items()
                    ],
                    problem=look.problem,
                )
                for look in found.looks
            ],
            contradictions=[
                ContradictionItem(
                    kind=one.kind.value, step=one.step, database=one.database, detail=without(one.detail, hidden)
                )
                for one in found.contradictions
            ],
            moves=list(found.moves),
            options=list(found.options),
            audit=[
                AuditItem(
                    at=one.at,
                    by=one.by,
                    action=one.action,
                    why=without(one.why, hidden),
                    saga_id=saga.id,
                    saga=saga.name,
                    batch=None,
                    count=1,
                    details=mask.data(one.details),
                )
                for one in saga.audit
            ],
        )

    def _listed(self, saga: SagaSummary, now: datetime) -> ListedSaga:
        return ListedSaga(**self._facts(saga, now, masked_values(saga.error, self._site.mask)))

    def _facts(self, saga: SagaSummary, now: datetime, hidden: frozenset[str]) -> dict[str, Any]:
        coming, then = comes_next(saga, now, self._site.lease)
        return {
            "id": saga.id,
            "name": saga.name,
            "version": saga.version,
            "known": saga.known,
            "key": None if saga.key is None else without(saga.key, hidden),
            "status": saga.status,
            "parked_from": saga.parked_from,
            "step": saga.step,
            "retried": saga.retried,
            "reason": None if saga.reason is None else without(saga.reason, hidden),
            "going_on": without(going_on(saga, now), hidden),
            "next": f"{coming}, {then}" if then else coming,
            "epoch": saga.epoch,
            "created_at": saga.created_at,
            "wake_at": saga.wake_at,
            "deadline": saga.deadline,
            "parked_at": saga.parked_at,
            "finished_at": saga.finished_at,
        }


def database_reports(found: Iterable[DatabaseFacts]) -> list[DatabaseReport]:
    """Return roles, lag, pools and reads of each database."""
    return [
        DatabaseReport(
            name=one.name,
            engine=one.engine,
            journal=one.journal,
            state=state(one)[1],
            nodes=[
                NodeReport(
                    url=node.url,
                    role=node.label,
                    failure=node.failure,
                    lag=node.lag,
                    latency=node.latency,
                    position=node.position,
                    breaker=node.breaker,
                    in_use=None if node.pool is None else node.pool.used,
                    pool_size=None if node.pool is None else node.pool.size,
                    waiting=None if node.pool is None else node.pool.waiting,
                )
                for node in one.nodes
            ],
            routed=[(node, why, number) for (node, why), number in one.routed.items()],
        )
        for one in found
    ]


def _plain_cause(cause: Cause, *, masking: bool) -> Cause:
    if not masking:
        return cause
    return replace(cause, example_message=cause.message)


def _hiding(one: Attempt, hidden: frozenset[str]) -> Attempt:
    return one if one.said is None else replace(one, said=without(one.said, hidden))


def outcome(repairs: tuple[Repair, ...]) -> OrderOutcome:
    """Return what an order did to the one saga that it was for."""
    (told,) = repairs
    return OrderOutcome(before=told.before, after=told.after, done=told.done)

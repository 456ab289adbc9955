"""What of a page has changed: a short hash for each part that is kept up to date, by the part's id.

A page carries the hash of all its parts, so a stream that opens later knows whether anything changed in between.
Times that only grow are rounded: a part whose text says how long ago something was is renewed now and then.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from polysaga.dashboard.recent import Happening
from polysaga.dashboard.screens.nodes import DatabaseFacts
from polysaga.sagas import Activity, AuditLine, BatchProgress, Fates, Overview, SagaState, SagaSummary, Status

Marks = Mapping[str, str]
_OFTEN, _SELDOM = 5, 30  # seconds after which ages are written anew

_SAGA_PARTS = ("s-story", "s-time", "s-steps", "s-ledgers", "s-facts", "s-audit", "s-data", "s-act")
_AGES = ("s-story", "s-time", "s-facts")  # parts that say how long ago something was


def combined(marks: Marks) -> str:
    """Return the hash of all parts together."""
    return _hash(sorted(marks.items()))


def of_overview(
    found: Overview, activity: Activity, databases: Sequence[DatabaseFacts], lines: Sequence[Happening]
) -> Marks:
    """Return the parts of the first page."""
    numbers = (sorted(found.unfinished.items()), found.waiting, sum(group.count for group in found.late))
    hour = [(one.name, one.started, one.completed, one.compensated, one.parked, one.p95) for one in activity.sagas]
    age = _age(found.at, _OFTEN if found.oldest else 3600)
    oldest = [(saga.id, saga.status, saga.epoch) for saga in found.oldest]
    return {
        **of_frame(found),
        "o-head": _hash(numbers, len(found.causes), [_state(one) for one in databases], hour),
        "o-person": _hash(numbers, found.causes, found.late, oldest, age),
        "o-hour": _hash(hour, found.at.minute),
        "o-databases": _hash([_facts(one) for one in databases]),
        "o-processes": _hash([(one.name, one.in_flight) for one in activity.processes], _age(found.at, _SELDOM)),
        "o-events": _hash([(line.at, line.count) for line in lines[:1]], len(lines)),
    }


def of_frame(found: Overview) -> Marks:
    """Return the parts that every page has."""
    return {"nav-sagas": _hash(found.unfinished.get(Status.NEEDS_ATTENTION, 0))}


def of_list(sagas: Sequence[SagaSummary], found: Overview, newer: int) -> Marks:
    """Return the rows of a list, and what stands above them."""
    late = sum(group.count for group in found.late)
    numbers = _hash(sorted(found.unfinished.items()), found.waiting, late, found.crashing)
    return {
        **of_frame(found),
        "l-searches": numbers,
        "l-toggles": numbers,
        "l-asked": numbers,
        "l-many": numbers,
        "l-pager": numbers,
        "l-newer": _hash(newer),
        **{f"saga-{saga.id}": of_saga(saga, found.at) for saga in sagas},
    }


def of_saga(saga: SagaSummary, now: datetime) -> str:
    """Return the hash of what a row says of *saga*."""
    age = _age(now, _OFTEN) if saga.status.moving else 0
    return _hash(saga.status, saga.epoch, saga.owner, saga.wake_at, saga.reason, age)


def of_case(saga: SagaState, found: Overview) -> Marks:
    """Return the parts of the page of one saga."""
    facts = (saga.status, saga.epoch, saga.owner, saga.wake_at, len(saga.history), saga.reason, len(saga.audit))
    age = 0 if saga.status.final else _age(found.at, _OFTEN if saga.status.moving else _SELDOM)
    return {**of_frame(found), **{part: _hash(facts, age if part in _AGES else 0) for part in _SAGA_PARTS}}


def of_databases(databases: Sequence[DatabaseFacts], found: Overview, lines: Sequence[Happening]) -> Marks:
    """Return the databases of their page."""
    parts = {
        one.name: _hash(
            _facts(one), sorted(one.routed.items()), [line for line in lines if line.database == one.name]
        )
        for one in databases
    }
    return {**of_frame(found), "d-head": _hash([_state(one) for one in databases]), **parts}


def of_audit(lines: Sequence[AuditLine], found: Overview) -> Marks:
    """Return the table of acts."""
    return {**of_frame(found), "a-rows": _hash([(line.at, line.saga_id, line.count) for line in lines])}


def of_batch(batch: BatchProgress, fates: Fates, found: Overview) -> Marks:
    """Return how far a batch is, and what has become of its sagas."""
    return {
        **of_frame(found),
        "b-far": _hash(batch.done, sorted(batch.refused.items()), batch.ended_at, batch.total, batch.stopped_by),
        "b-fates": _hash(
            sorted(fates.numbers.items()),
            fates.removed,
            [(saga.id, saga.status, saga.epoch, saga.retried) for saga in fates.examples],
        ),
    }


def _state(one: DatabaseFacts) -> object:
    return (
        one.name,
        one.refusal,
        [(node.label, node.failure is None, _is_behind(node.lag, one)) for node in one.nodes],
    )


def _facts(one: DatabaseFacts) -> object:
    nodes = [
        (
            node.label,
            node.failure,
            None if node.lag is None else round(node.lag, 2),
            node.position,
            node.pool,
            node.breaker,
        )
        for node in one.nodes
    ]
    return _state(one), nodes


def _is_behind(lag: float | None, one: DatabaseFacts) -> bool:
    return lag is None or lag > one.max_lag


def _age(now: datetime, seconds: int) -> int:
    return int(now.timestamp()) // seconds


def _hash(*facts: object) -> str:
    return hashlib.blake2b(repr(facts).encode(errors="replace"), digest_size=8).hexdigest()

"""What people did to one saga, from its audit trail."""

from collections.abc import Mapping
from dataclasses import dataclass

from polysaga.dashboard import words
from polysaga.dashboard.masking import without
from polysaga.sagas import Examination


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """What a person did to this saga."""

    at: str
    iso: str
    by: str
    did: str
    why: str
    change: str


def people(found: Examination, hidden: frozenset[str]) -> list[AuditEvent]:
    """Return what people did to the saga, the latest first."""
    return [
        AuditEvent(
            at=words.at(entry.at, found.at),
            iso=entry.at.isoformat(),
            by=entry.by,
            did=did(entry.action, entry.details),
            why=without(entry.why, hidden),
            change=change(entry.details),
        )
        for entry in reversed(found.saga.audit)
    ]


def did(action: str, details: Mapping[str, object]) -> str:
    """Return what a person did, as a sentence about the saga."""
    asked = details.get("asked")
    given = asked if isinstance(asked, Mapping) else {}
    step, outcome = given.get("step"), given.get("outcome")
    return {
        "retry": "retried it",
        "skip": f"skipped {step}" if step else "skipped a step",
        "compensate": "had it undone",
        "resolve": f"resolved it as {outcome}" if outcome else "resolved it",
    }.get(action, action)


def change(details: Mapping[str, object]) -> str:
    """Return what an act changed: `completing to completed`."""
    before, after = states(details)
    return f"{words.STATUS[before]} to {words.STATUS[after]}" if before and after else ""


def states(details: Mapping[str, object]) -> tuple[str, str]:
    """Return the status before an act and after it, as the audit trail kept them; empty if it did not."""
    found = []
    for name in ("before", "after"):
        kept = details.get(name)
        status = kept.get("status") if isinstance(kept, Mapping) else kept
        found.append(status if isinstance(status, str) and status in words.STATUS else "")
    return found[0], found[1]

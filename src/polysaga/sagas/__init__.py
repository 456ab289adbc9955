"""Work across several databases that happens everywhere or is undone everywhere."""

from typing import TYPE_CHECKING

from polysaga.loading import facade as _facade

if TYPE_CHECKING:
    from polysaga.sagas.definition.retries import Retry
    from polysaga.sagas.definition.saga import Saga
    from polysaga.sagas.definition.step import Step, StepContext
    from polysaga.sagas.journal.views import AuditEntry, AuditFilter, SagaFilter, SagaPage, SagaState, SagaSummary
    from polysaga.sagas.operations.activity import (
        Activity,
        Minute,
        ProcessFacts,
        SagaActivity,
        StepActivity,
        StepMinute,
    )
    from polysaga.sagas.operations.findings import (
        AuditLine,
        AuditPage,
        BatchProgress,
        Cause,
        Count,
        Examination,
        Fates,
        Frozen,
        LateGroup,
        LedgerLook,
        Option,
        Overview,
        StepFacts,
    )
    from polysaga.sagas.operations.inspector import Inspector
    from polysaga.sagas.operations.repairs import Repair
    from polysaga.sagas.operations.verification import Verification
    from polysaga.sagas.process.handle import SagaHandle
    from polysaga.sagas.protocol.contradictions import Contradiction, ContradictionKind
    from polysaga.sagas.protocol.plans import Planned
    from polysaga.sagas.protocol.reasons import Attempt, Parking, Reason, Resolution, Tenure
    from polysaga.sagas.protocol.rows import LedgerRow
    from polysaga.sagas.protocol.states import Mark, Status
    from polysaga.sagas.semantic_locks import SemanticLock
    from polysaga.sagas.service import Sagas

__all__ = [
    "Activity",
    "Attempt",
    "AuditEntry",
    "AuditFilter",
    "AuditLine",
    "AuditPage",
    "BatchProgress",
    "Cause",
    "Contradiction",
    "ContradictionKind",
    "Count",
    "Examination",
    "Fates",
    "Frozen",
    "Inspector",
    "LateGroup",
    "LedgerLook",
    "LedgerRow",
    "Mark",
    "Minute",
    "Option",
    "Overview",
    "Parking",
    "Planned",
    "ProcessFacts",
    "Reason",
    "Repair",
    "Resolution",
    "Retry",
    "Saga",
    "SagaActivity",
    "SagaFilter",
    "SagaHandle",
    "SagaPage",
    "SagaState",
    "SagaSummary",
    "Sagas",
    "SemanticLock",
    "Status",
    "Step",
    "StepActivity",
    "StepContext",
    "StepFacts",
    "StepMinute",
    "Tenure",
    "Verification",
]

__getattr__, __dir__ = _facade(
    __name__,
    {
        "polysaga.sagas.definition.retries": ["Retry"],
        "polysaga.sagas.definition.saga": ["Saga"],
        "polysaga.sagas.definition.step": ["Step", "StepContext"],
        "polysaga.sagas.journal.views": [
            "AuditEntry",
            "AuditFilter",
            "SagaFilter",
            "SagaPage",
            "SagaState",
            "SagaSummary",
        ],
        "polysaga.sagas.operations.activity": [
            "Activity",
            "Minute",
            "ProcessFacts",
            "SagaActivity",
            "StepActivity",
            "StepMinute",
        ],
        "polysaga.sagas.operations.findings": [
            "AuditLine",
            "AuditPage",
            "BatchProgress",
            "Cause",
            "Count",
            "Examination",
            "Fates",
            "Frozen",
            "LateGroup",
            "LedgerLook",
            "Option",
            "Overview",
            "StepFacts",
        ],
        "polysaga.sagas.operations.inspector": ["Inspector"],
        "polysaga.sagas.operations.repairs": ["Repair"],
        "polysaga.sagas.operations.verification": ["Verification"],
        "polysaga.sagas.process.handle": ["SagaHandle"],
        "polysaga.sagas.protocol.contradictions": ["Contradiction", "ContradictionKind"],
        "polysaga.sagas.protocol.plans": ["Planned"],
        "polysaga.sagas.protocol.reasons": ["Attempt", "Parking", "Reason", "Resolution", "Tenure"],
        "polysaga.sagas.protocol.rows": ["LedgerRow"],
        "polysaga.sagas.protocol.states": ["Mark", "Status"],
        "polysaga.sagas.semantic_locks": ["SemanticLock"],
        "polysaga.sagas.service": ["Sagas"],
    },
)

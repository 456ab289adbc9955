"""Work across several databases that happens everywhere or is undone everywhere."""

from polysaga.sagas.catalogue import AuditEntry, SagaFilter, SagaPage, SagaState, SagaSummary
from polysaga.sagas.context import StepContext
from polysaga.sagas.contradictions import Contradiction, ContradictionKind
from polysaga.sagas.decisions import Status
from polysaga.sagas.definition import Saga, Step
from polysaga.sagas.locks import SemanticLock
from polysaga.sagas.repairs import Repair
from polysaga.sagas.retries import Retry
from polysaga.sagas.runner import SagaHandle
from polysaga.sagas.service import Sagas
from polysaga.sagas.verification import Verification

__all__ = [
    "AuditEntry",
    "Contradiction",
    "ContradictionKind",
    "Repair",
    "Retry",
    "Saga",
    "SagaFilter",
    "SagaHandle",
    "SagaPage",
    "SagaState",
    "SagaSummary",
    "Sagas",
    "SemanticLock",
    "Status",
    "Step",
    "StepContext",
    "Verification",
]

"""Work across several databases that happens everywhere or is undone everywhere."""

from polysaga.sagas.definition.retries import Retry
from polysaga.sagas.definition.saga import Saga
from polysaga.sagas.definition.step import Step, StepContext
from polysaga.sagas.journal.views import AuditEntry, SagaFilter, SagaPage, SagaState, SagaSummary
from polysaga.sagas.operations.repairs import Repair
from polysaga.sagas.operations.verification import Verification
from polysaga.sagas.process.handle import SagaHandle
from polysaga.sagas.protocol.contradictions import Contradiction, ContradictionKind
from polysaga.sagas.protocol.reasons import Attempt, Parking, Reason, Resolution
from polysaga.sagas.protocol.states import Status
from polysaga.sagas.semantic_locks import SemanticLock
from polysaga.sagas.service import Sagas

__all__ = [
    "Attempt",
    "AuditEntry",
    "Contradiction",
    "ContradictionKind",
    "Parking",
    "Reason",
    "Repair",
    "Resolution",
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

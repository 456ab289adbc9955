"""Work across several databases that happens everywhere or is undone everywhere."""

from polysaga.sagas.context import StepContext
from polysaga.sagas.contradictions import Contradiction, ContradictionKind
from polysaga.sagas.decisions import Status
from polysaga.sagas.definition import Saga, Step
from polysaga.sagas.retries import Retry
from polysaga.sagas.runner import SagaHandle, SagaState
from polysaga.sagas.service import Sagas
from polysaga.sagas.verification import Verification

__all__ = [
    "Contradiction",
    "ContradictionKind",
    "Retry",
    "Saga",
    "SagaHandle",
    "SagaState",
    "Sagas",
    "Status",
    "Step",
    "StepContext",
    "Verification",
]

"""What a failed attempt means: the ledger is asked first, then the error."""

import pytest

from polysaga.databases import Fault
from polysaga.errors import Refused, StepMisused
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.sagas.protocol.states import Mark
from polysaga.sagas.protocol.verdicts import Verdict, judge


class OutOfStock(Refused):
    """A refusal of a program's own."""


ERRORS: list[tuple[BaseException, Fault | None]] = [
    (Refused("no"), None),
    (OutOfStock("none left"), None),
    (Fenced("claim"), None),
    (ValueError("bug"), None),
    (TimeoutError(), None),
    *((RuntimeError(fault.value), fault) for fault in Fault),
]
TRANSIENT = [
    Fault.DISCONNECTED,
    Fault.UNREACHABLE,
    Fault.POOL_EXHAUSTED,
    Fault.TOO_MANY_CONNECTIONS,
    Fault.DEADLOCK,
    Fault.SERIALIZATION,
    Fault.LOCK_TIMEOUT,
    Fault.STATEMENT_TIMEOUT,
    Fault.UNKNOWN_COMMIT,
    Fault.OUT_OF_RESOURCES,
    Fault.SERVER_TROUBLE,
    Fault.STALE_PLAN,
    Fault.READ_ONLY,  # a demoted primary: the next attempt may find the new one
]
LASTING = [Fault.REJECTED, Fault.NO_DATABASE, Fault.DENIED, Fault.DUPLICATE_KEY, Fault.SCHEMA_MISSING]


@pytest.mark.parametrize(("error", "fault"), ERRORS)
def test_a_row_that_is_done_means_done_whatever_the_error(error: BaseException, fault: Fault | None) -> None:
    assert judge(error, fault, Mark.DONE) is Mark.DONE


@pytest.mark.parametrize("row", [Mark.BLOCKED, Mark.COMPENSATED])
@pytest.mark.parametrize(("error", "fault"), ERRORS)
def test_a_row_that_is_undone_or_blocked_means_late_whatever_the_error(
    error: BaseException, fault: Fault | None, row: Mark
) -> None:
    assert judge(error, fault, row) is Verdict.LATE


def test_without_a_row_a_fenced_write_means_that_the_claim_is_lost() -> None:
    assert judge(Fenced("decide"), None, None) is Verdict.LOST


@pytest.mark.parametrize("error", [Refused("no"), OutOfStock("none left", left=0)])
def test_without_a_row_a_refusal_and_its_subclasses_are_refused(error: Refused) -> None:
    assert judge(error, None, None) is Verdict.REFUSED


def test_a_refusal_stays_a_refusal_although_a_fault_was_recognised() -> None:
    assert judge(Refused("no"), Fault.DEADLOCK, None) is Verdict.REFUSED


@pytest.mark.parametrize("fault", TRANSIENT)
def test_without_a_row_a_transient_fault_is_tried_again(fault: Fault) -> None:
    assert judge(RuntimeError(), fault, None) is Verdict.AGAIN


def test_without_a_row_an_attempt_that_took_too_long_is_tried_again() -> None:
    assert judge(TimeoutError(), None, None) is Verdict.AGAIN


@pytest.mark.parametrize("fault", LASTING)
def test_without_a_row_a_lasting_fault_fails(fault: Fault) -> None:
    assert judge(RuntimeError(), fault, None) is Verdict.FAILED


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("x"), StepMisused("commit")])
def test_without_a_row_anything_else_is_a_bug(error: BaseException) -> None:
    assert judge(error, None, None) is Verdict.FAILED


def test_every_fault_is_either_transient_or_lasting() -> None:
    assert {*TRANSIENT, *LASTING} == set(Fault)
    assert [fault for fault in Fault if fault.transient] == [fault for fault in Fault if fault in TRANSIENT]

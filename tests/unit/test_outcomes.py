"""How a saga that did not complete is kept as data in the journal, and raised as the same error later."""

import json
from uuid import uuid4

import pytest

from polysaga import Saga, SqlDatabase
from polysaga.errors import (
    DeadlineExceeded,
    NeedsAttention,
    PolysagaError,
    Refused,
    SagaCancelled,
    SagaFailed,
    SagaUndone,
)
from polysaga.sagas.definition.definition import Definition, define
from polysaga.sagas.protocol.outcomes import Failure, cancelled, error_of, overdue
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.states import Status
from polysaga.sagas.protocol.verdicts import Verdict
from polysaga.texts import said

ID = uuid4()


class OutOfStock(Refused):
    """A refusal with a constructor of its own."""

    def __init__(self, product: str, left: int) -> None:
        super().__init__(f"{product} has {left} left", product=product, left=left)


class Unlisted(Refused):
    """A refusal that the saga does not name."""


def definition() -> Definition:
    saga = Saga("place-order", input=int, refusals=[OutOfStock])

    @saga.step(SqlDatabase("orders"))
    async def open_order(db: object, value: int, ctx: object) -> None: ...

    return define(saga)


def told(failure: Failure, status: Status = Status.COMPENSATED) -> PolysagaError:
    """What a later caller gets, after the way through the journal."""
    return error_of(definition(), ID, status, Reason.from_json(json.loads(json.dumps(failure.reason().to_json()))))


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # noqa: BLE001 - to give it a traceback
        return caught


def test_a_refusal_comes_back_as_what_it_was_without_calling_its_constructor() -> None:
    error = told(Failure(Verdict.REFUSED, "reserve", OutOfStock("tea", 2)))
    assert type(error) is OutOfStock
    assert (str(error), error.facts, error.code) == (
        "tea has 2 left",
        {"product": "tea", "left": 2},
        "out-of-stock",
    )
    assert error.saga_id == ID


def test_an_attribute_that_the_journal_does_not_keep_is_told_with_the_remedy() -> None:
    class NoSeatLeft(Refused):
        def __init__(self, seats: int) -> None:
            super().__init__("fewer seats")
            self.seats = seats

    saga = Saga("sail", input=int, refusals=[NoSeatLeft])

    @saga.step(SqlDatabase("orders"))
    async def take_seats(db: object, value: int, ctx: object) -> None: ...

    refusal = NoSeatLeft(3)
    with pytest.raises(AttributeError) as plain:
        refusal.nonsense  # type: ignore[attr-defined]  # noqa: B018
    assert str(plain.value) == "'NoSeatLeft' object has no attribute 'nonsense'"
    reason = Failure(Verdict.REFUSED, "take_seats", refusal).reason()
    joined = error_of(define(saga), ID, Status.COMPENSATED, reason)
    assert isinstance(joined, NoSeatLeft)
    with pytest.raises(AttributeError, match=r"keeps the message and the facts: call .*\(message, seats=\.\.\.\)"):
        _ = joined.seats
    assert not hasattr(joined, "__notes__")


def test_a_refusal_that_the_saga_does_not_name_keeps_its_code_message_and_facts() -> None:
    error = told(Failure(Verdict.REFUSED, "reserve", Unlisted("not listed", product="tea")))
    assert type(error) is Refused
    assert (str(error), error.facts, error.code) == ("not listed", {"product": "tea"}, "unlisted")


def test_facts_that_json_does_not_know_are_kept_as_text() -> None:
    some_id = uuid4()
    error = told(Failure(Verdict.REFUSED, "reserve", Refused("no", product=some_id)))
    assert isinstance(error, Refused)
    assert error.facts == {"product": str(some_id)}


def test_a_bug_is_told_with_its_step_and_its_traceback_is_kept() -> None:
    failure = Failure(Verdict.FAILED, "reserve", raised(KeyError("sku")))
    error = told(failure)
    assert isinstance(error, SagaFailed)
    assert (error.saga_id, error.saga, error.step, error.reason) == (
        ID,
        "place-order",
        "reserve",
        "KeyError: 'sku'",
    )
    assert "in raised\n    raise error\nKeyError" in (failure.reason().traceback or "")


@pytest.mark.parametrize("verdict", [Verdict.UNAVAILABLE, Verdict.LATE, Verdict.LOST])
def test_what_is_nobodys_fault_invites_to_try_again(verdict: Verdict) -> None:
    error = told(Failure(verdict, "reserve", TimeoutError("no answer")))
    assert isinstance(error, SagaUndone)
    assert (error.step, error.reason) == ("reserve", "TimeoutError: no answer")


@pytest.mark.parametrize(
    ("failure", "kind", "says"),
    [
        (cancelled("the customer left"), SagaCancelled, "cancelled and undone: the customer left"),
        (overdue(), DeadlineExceeded, "not decided before its deadline"),
    ],
)
def test_a_saga_that_was_stopped_says_why_and_blames_no_step(
    failure: Failure, kind: type[SagaUndone], says: str
) -> None:
    error = told(failure)
    assert type(error) is kind
    assert says in str(error)
    assert (error.saga_id, error.step) == (ID, None)
    assert failure.reason().to_json().keys() == {"kind", "step", "message"}


def test_a_parked_saga_tells_what_it_is_parked_for_and_not_what_it_was_undone_for() -> None:
    data = {"kind": "refused", "message": "sold out", "code": "sold-out", "facts": {}}
    parked = {**data, "parked": {"from": "compensating", "message": "cannot undo"}}
    error = error_of(definition(), ID, Status.NEEDS_ATTENTION, Reason.from_json(parked))
    assert isinstance(error, NeedsAttention)
    assert error.reason == "cannot undo"


def test_a_database_that_kept_failing_leaves_no_traceback_in_the_journal() -> None:
    assert Failure(Verdict.UNAVAILABLE, "reserve", raised(OSError("gone"))).reason().traceback is None


def test_a_parked_saga_asks_for_a_person_whatever_the_reason() -> None:
    error = told(Failure(Verdict.REFUSED, "reserve", Refused("no")), Status.NEEDS_ATTENTION)
    assert isinstance(error, NeedsAttention)
    assert (error.saga_id, error.reason) == (ID, "no")


@pytest.mark.parametrize("status", [Status.COMPENSATED, Status.NEEDS_ATTENTION])
def test_a_row_without_a_reason_is_told_all_the_same(status: Status) -> None:
    assert "place-order" in str(error_of(definition(), ID, status, None))


def test_long_messages_and_tracebacks_are_cut_and_the_end_of_the_traceback_is_kept() -> None:
    data = Failure(Verdict.FAILED, "reserve", raised(ValueError("x" * 9000))).reason().to_json()
    assert len(data["message"]) == len(data["traceback"]) == 4000
    assert data["traceback"].endswith("x\n")


def test_facts_with_keys_that_are_not_text_are_kept_too() -> None:
    data = Failure(Verdict.REFUSED, "reserve", Refused("no", left={("tea", "green"): 2})).reason().to_json()
    assert data["message"] == "no"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("out of tea"), "ValueError: out of tea"),
        (TimeoutError(), "TimeoutError"),
        (Refused("no lantern left: try tomorrow"), "no lantern left: try tomorrow"),
        (Refused(""), "Refused"),
    ],
)
def test_what_an_error_says_is_never_empty(error: Exception, told: str) -> None:
    assert said(error) == told

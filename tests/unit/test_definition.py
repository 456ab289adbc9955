"""Sagas as data: every mistake is one clear error at import, and a sound saga knows its own shape."""

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga import AnyDatabase, Databases, MongoDatabase, Saga, Sagas, SqlDatabase, StepContext
from polysaga.errors import DefinitionError, Refused
from polysaga.sagas import Retry, Step
from polysaga.sagas.definition.definition import define
from polysaga.sagas.definition.retries import COMPENSATION, RETRIABLE, STEP
from tests.unit.shapes import LEDGER_PIVOT, PLACE_ORDER, SEVERAL_LEAVES, Planned, definition_of, saga_of, shapes

orders = SqlDatabase("orders")
inventory = MongoDatabase("inventory")


class Placed(BaseModel):
    """A result that survives JSON."""

    number: int = 0


class Opaque:
    """A result that does not."""


async def act(db: Any, value: int, ctx: StepContext) -> None:
    """Do nothing, with the signature of a step."""


async def undo(db: Any, value: int, done: None, ctx: StepContext) -> None:
    """Undo nothing, with the signature of a compensation."""


def named(name: str, action: Any = act) -> Any:
    """Return *action* under another name."""

    async def copy(db: Any, value: int, ctx: StepContext) -> None:
        await action(db, value, ctx)

    copy.__name__ = name
    return copy


def fresh(**arguments: Any) -> Saga[int, Any]:
    return Saga("place-order", input=int, **arguments)


def undoable(saga: Saga[int, Any], name: str, **arguments: Any) -> Step[Any, int, None]:
    step: Step[Any, int, None] = saga.step(orders, **arguments)(named(name))
    step.compensation(undo)
    return step


def no_steps() -> None:
    define(fresh())


def unnamable_saga() -> None:
    Saga("Place Order", input=int)


def saga_with_too_long_a_name() -> None:
    Saga("a" * 65, input=int)


def unnamable_step() -> None:
    fresh().step(orders)(named("OpenOrder"))


def nameless_step() -> None:
    fresh().step(orders)(lambda db, value, ctx: act(db, value, ctx))


def step_with_too_long_a_name() -> None:
    fresh().step(orders)(named("a" * 65))


def two_steps_of_one_name() -> None:
    saga = fresh()
    undoable(saga, "reserve")
    undoable(saga, "reserve")


def step_after_one_of_another_saga() -> None:
    other = undoable(Saga("cancel-order", input=int), "reserve")
    fresh().step(orders, after=[other])(act)


def step_after_a_namesake_in_another_saga() -> None:
    other = undoable(Saga("cancel-order", input=int), "reserve")
    saga = fresh()
    undoable(saga, "reserve")
    saga.step(orders, after=[other])(act)


def two_pivots() -> None:
    saga = fresh()
    saga.step(orders, kind="pivot")(named("confirm"))
    saga.step(orders, kind="pivot")(named("ship"))
    define(saga)


def pivot_with_a_compensation() -> None:
    fresh().step(orders, kind="pivot")(named("confirm")).compensation(undo)


def retriable_with_a_compensation() -> None:
    fresh().step(orders, kind="retriable")(named("announce")).compensation(undo)


def two_compensations() -> None:
    undoable(fresh(), "reserve").compensation(undo)


def no_compensation() -> None:
    saga = fresh()
    saga.step(orders)(named("reserve"))
    saga.step(orders, kind="pivot")(named("confirm"))
    define(saga)


def no_compensation_among_several_last_steps() -> None:
    saga = fresh()
    undoable(saga, "reserve", after=[])
    saga.step(orders, after=[])(named("credit"))
    define(saga)


def compensatable_after_the_pivot() -> None:
    saga = fresh()
    saga.step(orders, kind="pivot")(named("confirm"))
    undoable(saga, "reserve")
    define(saga)


def compensatable_beside_the_pivot() -> None:
    saga = fresh()
    undoable(saga, "reserve", after=[])
    saga.step(orders, after=[], kind="pivot")(named("confirm"))
    define(saga)


def retriable_before_the_pivot() -> None:
    saga = fresh()
    saga.step(orders, kind="retriable")(named("announce"))
    saga.step(orders, kind="pivot")(named("confirm"))
    define(saga)


def retriable_beside_the_pivot() -> None:
    saga = fresh()
    saga.step(orders, kind="pivot")(named("confirm"))
    saga.step(orders, after=[], kind="retriable")(named("announce"))
    define(saga)


def retriable_among_several_last_steps() -> None:
    saga = fresh()
    undoable(saga, "reserve")
    undoable(saga, "credit", after=[])
    saga.step(orders, after=[], kind="retriable")(named("announce"))
    define(saga)


def step_that_is_not_async() -> None:
    def reserve(db: Any, value: int, ctx: StepContext) -> None: ...

    fresh().step(orders)(reserve)  # type: ignore[arg-type]


def step_that_does_not_say_what_it_returns() -> None:
    async def reserve(db: Any, value: int, ctx: StepContext):  # type: ignore[no-untyped-def]
        ...

    fresh().step(orders)(reserve)


def step_with_an_annotation_that_cannot_be_resolved() -> None:
    async def reserve(db: Any, value: int, ctx: StepContext) -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821
        ...

    fresh().step(orders)(reserve)


def step_that_is_a_partial() -> None:
    fresh().step(orders)(functools.partial(act))


def result_that_is_no_model() -> None:
    async def reserve(db: Any, value: int, ctx: StepContext) -> Opaque: ...

    fresh().step(orders)(reserve)


def result_that_is_a_function() -> None:
    async def reserve(db: Any, value: int, ctx: StepContext) -> Callable[[], None]: ...

    fresh().step(orders)(reserve)


def input_that_is_no_model() -> None:
    Saga("place-order", input=Opaque)


def step_without_a_context() -> None:
    async def reserve(db: Any, value: int) -> None: ...

    fresh().step(orders)(reserve)  # type: ignore[arg-type]


def step_with_too_many_parameters() -> None:
    async def reserve(db: Any, value: int, done: int, ctx: StepContext) -> None: ...

    fresh().step(orders)(reserve)  # type: ignore[arg-type]


def compensation_that_does_not_take_what_was_done() -> None:
    fresh().step(orders)(named("reserve")).compensation(act)  # type: ignore[arg-type]


def output_that_the_deciding_step_does_not_return() -> None:
    saga = fresh(output=Placed)
    saga.step(orders, kind="pivot")(named("confirm"))
    define(saga)


def output_with_several_last_steps() -> None:
    saga = fresh(output=Placed)
    undoable(saga, "reserve")
    undoable(saga, "credit", after=[])
    define(saga)


def step_on_an_unknown_database() -> None:
    saga = fresh()
    saga.step(inventory)(named("reserve"))
    Sagas(Databases(orders), saga, journal=orders)


def step_on_a_namesake_of_a_known_database() -> None:
    saga = fresh()
    saga.step(SqlDatabase("orders"))(named("reserve"))
    Sagas(Databases(orders), saga, journal=orders)


def journal_in_an_unknown_database() -> None:
    Sagas(Databases(orders), journal=SqlDatabase("journal"))


def connection_of_a_document_database() -> None:
    async def reserve(db: AsyncConnection, value: int, ctx: StepContext) -> None: ...

    fresh().step(inventory)(reserve)  # type: ignore[arg-type]


def connection_of_any_database_in_a_compensation() -> None:
    async def undo_it(db: AsyncConnection, value: int, done: None, ctx: StepContext) -> None: ...

    step: Step[Any, int, None] = fresh().step(AnyDatabase("anywhere"))(named("reserve"))
    step.compensation(undo_it)


def two_sagas_of_one_name() -> None:
    sagas = [saga_of([Planned("open", "orders")]) for _ in range(2)]
    handle = next(iter(define(sagas[0]).steps)).database
    again: Saga[int, None] = Saga("order", input=int)
    again.step(handle)(named("open_again"))
    Sagas(Databases(handle), sagas[0], again, journal=handle)  # type: ignore[arg-type]


def step_after_the_sagas_were_built() -> None:
    saga = fresh()
    undoable(saga, "reserve")
    Sagas(Databases(orders), saga, journal=orders)
    saga.step(orders, kind="pivot")(named("confirm"))


def step_without_its_decorator_called() -> None:
    fresh().step(named("reserve"))  # type: ignore[call-overload]


def step_after_another_that_is_not_in_a_list() -> None:
    saga = fresh()
    reserve = undoable(saga, "reserve")
    saga.step(orders, after=reserve, kind="pivot")(named("confirm"))  # type: ignore[call-overload]


def step_after_a_generator() -> None:
    saga = fresh()
    reserve = undoable(saga, "reserve")
    saga.step(orders, after=(step for step in [reserve]))(named("confirm"))  # type: ignore[call-overload]


def sagas_in_a_list() -> None:
    Sagas(Databases(orders), [fresh()], journal=orders)  # type: ignore[arg-type]


def sagas_of_a_handle() -> None:
    Sagas(orders, fresh(), journal=orders)  # type: ignore[arg-type]


def journal_that_is_a_name() -> None:
    Sagas(Databases(orders), journal="orders")  # type: ignore[arg-type]


def journal_in_a_document_database() -> None:
    Sagas(Databases(inventory), journal=inventory)  # type: ignore[arg-type]


def call_that_is_the_pivot() -> None:
    async def charge(value: int, ctx: StepContext) -> None: ...

    fresh().step(None, kind="pivot")(charge)


def call_that_asks_for_a_session() -> None:
    fresh().step(None)(act)  # type: ignore[arg-type]


def output_of_a_last_call() -> None:
    async def charge(value: int, ctx: StepContext) -> Placed:
        return Placed()

    async def refund(value: int, done: Placed | None, ctx: StepContext) -> None: ...

    saga = fresh(output=Placed)
    saga.step(None)(charge).compensation(refund)
    define(saga)


def compensation_of_a_call_that_expects_to_be_told() -> None:
    async def charge(value: int, ctx: StepContext) -> Placed:
        return Placed()

    async def refund(value: int, done: Placed, ctx: StepContext) -> None: ...

    fresh().step(None)(charge).compensation(refund)  # type: ignore[call-overload]


def compensation_of_a_call_that_asks_for_a_session() -> None:
    async def charge(value: int, ctx: StepContext) -> None: ...

    fresh().step(None)(charge).compensation(undo)  # type: ignore[call-overload]


MISTAKES = [
    (call_that_is_the_pivot, r"step 'charge' has no database and cannot be the pivot: .* make it compensatable"),
    (call_that_asks_for_a_session, r"step 'act' must take \(input, ctx\)"),
    (output_of_a_last_call, r"an output but a last step without a database; declare a pivot"),
    (
        compensation_of_a_call_that_expects_to_be_told,
        r"compensation of step 'charge' must take `done: Placed \| None`; None says that it is unknown",
    ),
    (
        compensation_of_a_call_that_asks_for_a_session,
        r"the compensation of step 'charge' must take \(input, done, ctx\)",
    ),
    (no_steps, r"saga 'place-order' has no steps"),
    (unnamable_saga, r"'Place Order' is not a saga's name: use a-z, 0-9 and -"),
    (saga_with_too_long_a_name, r"is not a saga's name: .* at most 64 characters"),
    (unnamable_step, r"'OpenOrder' is not a step's name: use a-z, 0-9 and _"),
    (nameless_step, r"'<lambda>' is not a step's name"),
    (step_with_too_long_a_name, r"is not a step's name: .* at most 64 characters"),
    (two_steps_of_one_name, r"two steps named 'reserve'; names must be unique"),
    (
        step_after_one_of_another_saga,
        r"'act' follows Step\('reserve', .*\), which is not a step of saga 'place-order'",
    ),
    (step_after_a_namesake_in_another_saga, r"'act' follows Step\('reserve', .*\), which is not a step of saga"),
    (two_pivots, r"two pivots, 'confirm' and 'ship'; one step decides"),
    (pivot_with_a_compensation, r"step 'confirm' is pivot and is never undone; drop its compensation"),
    (retriable_with_a_compensation, r"step 'announce' is retriable and is never undone; drop its compensation"),
    (two_compensations, r"step 'reserve' has two compensations; keep one"),
    (no_compensation, r"step 'reserve' .* has no compensation: declare one with @reserve\.compensation"),
    (no_compensation_among_several_last_steps, r"step 'credit' .* has no compensation"),
    (compensatable_after_the_pivot, r"'reserve' .* comes after the pivot 'confirm'; .* make it retriable"),
    (compensatable_beside_the_pivot, r"'reserve' .* is not before the pivot 'confirm'; add it to .*after="),
    (retriable_before_the_pivot, r"retriable step 'announce' .* must follow the pivot"),
    (retriable_beside_the_pivot, r"retriable step 'announce' .* must follow the pivot"),
    (retriable_among_several_last_steps, r"retriable step 'announce' .* must follow the pivot"),
    (step_that_is_not_async, r"step 'reserve' must be an `async def` function"),
    (step_that_does_not_say_what_it_returns, r"step 'reserve' does not say what it returns; annotate it"),
    (
        step_with_an_annotation_that_cannot_be_resolved,
        r"step 'reserve': the annotation of what it returns .*'Nowhere'.* outside of `if TYPE_CHECKING:`",
    ),
    (step_that_is_a_partial, r"a step is a function with a name, not a partial: declare one that calls it"),
    (
        result_that_is_no_model,
        r"the result of step 'reserve', Opaque, does not survive JSON; use a pydantic model",
    ),
    (result_that_is_a_function, r"the result of step 'reserve', .* does not survive JSON"),
    (input_that_is_no_model, r"the input of saga 'place-order', Opaque, does not survive JSON"),
    (step_without_a_context, r"step 'reserve' must take \(db, input, ctx\)"),
    (step_with_too_many_parameters, r"step 'reserve' must take \(db, input, ctx\)"),
    (
        compensation_that_does_not_take_what_was_done,
        r"compensation of step 'reserve' must take \(db, input, done, ctx\)",
    ),
    (
        output_that_the_deciding_step_does_not_return,
        r"is Placed, but its deciding step 'confirm' returns NoneType",
    ),
    (output_with_several_last_steps, r"an output but several last steps; declare a pivot"),
    (step_on_an_unknown_database, r"step 'reserve' .* runs on 'inventory', which is not one of the program's"),
    (step_on_a_namesake_of_a_known_database, r"step 'reserve' .* runs on 'orders', which is not one of"),
    (journal_in_an_unknown_database, r"the journal's database 'journal' is not one of the program's databases"),
    (
        connection_of_a_document_database,
        r"step 'reserve' asks for an AsyncConnection, which only a SqlDatabase lends: .* MongoDatabase",
    ),
    (
        connection_of_any_database_in_a_compensation,
        r"compensation of step 'reserve' asks for an AsyncConnection, which only a SqlDatabase lends",
    ),
    (two_sagas_of_one_name, r"two sagas are named 'order' in version 1"),
    (
        step_without_its_decorator_called,
        r"step 'reserve' of saga 'place-order' is declared without its database: write @saga\.step\(database\)",
    ),
    (
        step_after_another_that_is_not_in_a_list,
        r"option after= of step 'confirm' is Step\('reserve', .*: give a list, e\.g\. after=\[open_order\]",
    ),
    (step_after_a_generator, r"option after= of step 'confirm' is <generator .*: give a list"),
    (sagas_in_a_list, r"an argument of Sagas\(\.\.\.\) is \[.*: give the sagas one after the other"),
    (
        sagas_of_a_handle,
        r"the first argument of Sagas\(\.\.\.\) is SqlDatabase\('orders'\): give the .* Databases",
    ),
    (journal_that_is_a_name, r"the journal of Sagas\(\.\.\.\) is 'orders': give the handle of a SQL database"),
    (journal_in_a_document_database, r"the journal of Sagas\(\.\.\.\) is MongoDatabase\('inventory'\): give"),
    (
        step_after_the_sagas_were_built,
        r"step 'confirm' is declared after Sagas\(\.\.\.\) was built with saga 'place-order', .* before Sagas",
    ),
]


@pytest.mark.parametrize(("mistake", "says"), MISTAKES, ids=[mistake.__name__ for mistake, _ in MISTAKES])
def test_a_mistake_is_one_error_that_names_the_step_and_the_remedy(mistake: Callable[[], None], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        mistake()


def misspelt_kind() -> None:
    saga = fresh()
    saga.step(orders, kind="retryable")(named("announce"))  # type: ignore[arg-type]
    define(saga)


def retriable_that_decides() -> None:
    saga = fresh()
    undoable(saga, "reserve")
    saga.step(orders, kind="retriable")(named("announce"))
    define(saga)


def compensation_that_is_not_async() -> None:
    def cancel(db: Any, value: int, done: None, ctx: StepContext) -> None: ...

    fresh().step(orders)(named("reserve")).compensation(cancel)  # type: ignore[arg-type]


def step_that_wants_its_context_by_name() -> None:
    async def reserve(db: Any, value: int, *, ctx: StepContext) -> None: ...

    fresh().step(orders)(reserve)  # type: ignore[arg-type]


def key_fields_that_the_input_lacks() -> None:
    saga: Saga[Placed, None] = Saga("place-order", input=Placed, key_fields=["numbr"])
    saga.step(orders)(act)  # type: ignore[arg-type]
    define(saga)


def key_fields_of_an_input_without_fields() -> None:
    saga = fresh(key_fields=["number"])
    saga.step(orders)(act)
    define(saga)


def step_without_a_database() -> None:
    saga = fresh()
    saga.step(None)(named("charge"))  # type: ignore[arg-type]
    define(saga)


def step_after_a_name() -> None:
    saga = fresh()
    undoable(saga, "reserve")
    saga.step(orders, after=["reserve"])(act)  # type: ignore[list-item]


def two_refusals_of_one_code() -> None:
    class First(Refused):
        code = "sold-out"

    class Second(Refused):
        code = "sold-out"

    fresh(refusals=[First, Second])


UNNOTICED = [
    misspelt_kind,
    retriable_that_decides,
    compensation_that_is_not_async,
    step_that_wants_its_context_by_name,
    key_fields_that_the_input_lacks,
    key_fields_of_an_input_without_fields,
    step_without_a_database,
    step_after_a_name,
    two_refusals_of_one_code,
]


@pytest.mark.parametrize("mistake", UNNOTICED)
def test_a_mistake_does_not_wait_until_the_saga_runs(mistake: Callable[[], None]) -> None:
    with pytest.raises(DefinitionError):
        mistake()


@pytest.mark.parametrize("kind", [Placed, int, None])
def test_an_output_that_the_deciding_step_returns_is_fine(kind: Any) -> None:
    async def confirm(db: Any, value: int, ctx: StepContext) -> Any: ...

    confirm.__annotations__["return"] = kind
    saga = fresh(output=kind)
    saga.step(orders)(confirm)
    assert define(saga).decision is not None


@pytest.mark.parametrize(
    ("output", "returned"),
    [(list[int], list[int]), (dict[str, Placed], dict[str, Placed]), (Placed | None, Placed | None)],
    ids=["list", "dict", "optional"],
)
def test_an_output_that_is_a_generic_or_a_union_is_fine_too(output: Any, returned: Any) -> None:
    async def confirm(db: Any, value: int, ctx: StepContext) -> Any: ...

    confirm.__annotations__["return"] = returned
    saga = fresh(output=output)
    saga.step(orders)(confirm)
    assert define(saga).decision is not None


def test_steps_know_what_they_follow_and_what_follows_them() -> None:
    definition = definition_of(*PLACE_ORDER)
    assert definition.name == "order"
    assert definition.before["confirm_order"] == {"reserve_stock", "credit_points"}
    assert definition.following["open_order"] == {"reserve_stock", "credit_points"}
    assert definition.ancestors["record_event"] == {
        "open_order",
        "reserve_stock",
        "credit_points",
        "confirm_order",
    }
    assert definition.ancestors["open_order"] == frozenset()
    assert definition.undoable == ("open_order", "reserve_stock", "credit_points")


@given(shape=shapes())
def test_steps_are_in_a_topological_order_and_ancestors_are_complete(shape: tuple[Planned, ...]) -> None:
    definition = definition_of(*shape)
    seen: set[str] = set()
    for step in definition.steps:
        assert definition.ancestors[step.name] <= seen
        expected = set(definition.before[step.name])
        for name in definition.before[step.name]:
            expected |= definition.ancestors[name]
            assert step.name in definition.following[name]
        assert definition.ancestors[step.name] == expected
        seen.add(step.name)


@given(shape=shapes())
def test_a_single_last_step_with_a_database_decides_unless_a_pivot_does(
    shape: tuple[Planned, ...],
) -> None:
    definition = definition_of(*shape)
    pivots = [step for step in definition.steps if step.kind == "pivot"]
    last = [step for step in definition.steps if not definition.following[step.name]]
    if pivots:
        assert definition.decision is pivots[0]
    else:
        decides = len(last) == 1 and last[0].database is not None
        assert definition.decision is (last[0] if decides else None)
    decision = definition.decision
    undoable_names = {step.name for step in definition.steps if step.kind == "compensatable"}
    assert set(definition.undoable) == undoable_names - {decision.name if decision else None}


def test_without_after_a_step_follows_the_one_declared_before_it() -> None:
    definition = definition_of(Planned("first"), Planned("second"), Planned("aside", after=()))
    assert definition.before == {"first": frozenset(), "second": {"first"}, "aside": frozenset()}


def test_the_last_single_step_decides_and_needs_no_compensation() -> None:
    saga = fresh()
    undoable(saga, "reserve")
    ship = saga.step(orders)(named("ship"))
    assert define(saga).decision is ship


def test_several_last_steps_decide_together() -> None:
    assert definition_of(*SEVERAL_LEAVES).decision is None


def test_a_step_keeps_its_patience_or_gets_that_of_its_kind() -> None:
    saga = fresh()
    mine = Retry(within=1.0)
    first = saga.step(orders, retry=mine, timeout=2.0)(named("first"))
    second = saga.step(orders)(named("second"))
    third = saga.step(orders, kind="retriable")(named("third"))
    assert (first.retry, first.timeout, first.undo_retry) == (mine, 2.0, COMPENSATION)
    assert (second.retry, second.timeout) == (STEP, 30.0)
    assert third.retry == RETRIABLE


def test_a_compensation_stays_the_function_it_was() -> None:
    step = fresh().step(orders)(named("reserve"))
    assert step.compensation(undo) is undo
    assert step.undo is undo


def test_a_saga_may_be_part_of_several_sagas_objects() -> None:
    saga = fresh()
    undoable(saga, "reserve")
    databases = Databases(orders)
    for _ in range(2):
        assert Sagas(databases, saga, journal=orders).declared == (saga,)


def test_a_saga_that_sagas_refused_may_be_mended() -> None:
    saga = fresh()
    with pytest.raises(DefinitionError, match="has no steps"):
        Sagas(Databases(orders), saga, journal=orders)
    undoable(saga, "reserve")
    assert Sagas(Databases(orders), saga, journal=orders).declared == (saga,)


def test_sagas_and_steps_show_their_names_and_not_their_contents() -> None:
    saga = fresh(version=3)
    assert repr(saga) == "Saga('place-order', version=3)"
    assert repr(saga.step(orders, kind="pivot")(named("confirm"))) == "Step('confirm', pivot)"


def changed(place: int, **changes: Any) -> tuple[Planned, ...]:
    """Return PLACE_ORDER with one step changed."""
    steps = list(PLACE_ORDER)
    facts = {name: getattr(steps[place], name) for name in ("name", "database", "after", "kind")}
    steps[place] = Planned(**{**facts, **changes})
    return tuple(steps)


RESHAPED = {
    "a step is added": (*PLACE_ORDER, Planned("thank", "inventory", kind="retriable")),
    "a step is removed": PLACE_ORDER[:-1],
    "a step is moved": changed(2, after=("reserve_stock",)),
    "a step is renamed": changed(4, name="write_event"),
    "a step changes its database": changed(1, database="warehouse"),
}


@pytest.mark.parametrize("steps", RESHAPED.values(), ids=RESHAPED)
def test_the_fingerprint_changes_when(steps: tuple[Planned, ...]) -> None:
    assert definition_of(*steps).fingerprint != definition_of(*PLACE_ORDER).fingerprint


def test_the_fingerprint_changes_when_a_step_changes_its_kind() -> None:
    declared, implied = PLACE_ORDER[:-1], changed(3, kind="compensatable")[:-1]
    assert definition_of(*declared).fingerprint != definition_of(*implied).fingerprint


def test_the_fingerprint_changes_with_the_name_and_the_version() -> None:
    prints = {
        define(saga_of(PLACE_ORDER, name=name, version=version)).fingerprint
        for name, version in (("order", 1), ("order", 2), ("orders", 1))
    }
    assert len(prints) == 3


def test_the_fingerprint_is_the_same_in_every_process_and_release() -> None:
    assert definition_of(*PLACE_ORDER).fingerprint == "7588caad97bdac9e4fe69589339c4c18"


def test_the_fingerprint_does_not_change_with_code_types_or_patience() -> None:
    async def confirm(db: Any, value: int, ctx: StepContext) -> Placed:
        return Placed()

    prints: set[str] = set()
    for action, options in (
        (named("confirm"), {}),
        (confirm, {}),
        (named("confirm"), {"retry": Retry(within=1.0)}),
        (named("confirm"), {"timeout": 1.0}),
    ):
        saga = fresh(key_fields=[], refusals=[Refused] if options else [])
        undoable(saga, "reserve")
        saga.step(orders, kind="pivot", **options)(action)
        prints.add(define(saga).fingerprint)
    assert len(prints) == 1


def test_the_order_of_names_in_after_does_not_matter() -> None:
    turned = changed(3, after=("credit_points", "reserve_stock"))
    assert definition_of(*turned).fingerprint == definition_of(*PLACE_ORDER).fingerprint


def test_a_context_gives_results_of_earlier_steps_and_a_key_that_never_changes() -> None:
    definition = definition_of(*LEDGER_PIVOT)
    reserve, credit = definition.by_name["reserve"], definition.by_name["credit"]
    first = StepContext("an-id", "ship", 1, {"reserve": 5})  # type: ignore[arg-type]
    again = StepContext("an-id", "ship", 2, {"reserve": 5})  # type: ignore[arg-type]
    assert first.result(reserve) == 5
    assert first.idempotency_key == again.idempotency_key == "an-id:ship"
    with pytest.raises(DefinitionError, match=r"'ship' asks for the result of 'credit', which it does not follow"):
        first.result(credit)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), 1e12])
def test_a_deadline_that_makes_no_sense_is_a_mistake(seconds: float) -> None:
    with pytest.raises(DefinitionError, match="deadline of saga 'buy'"):
        Saga("buy", input=int, deadline=seconds)


def test_a_deadline_is_kept_in_seconds() -> None:
    assert Saga("buy", input=int, deadline=5).deadline == 5
    assert Saga("buy", input=int).deadline is None


NAN, INFINITE = float("nan"), float("inf")
NO_SECONDS = ["5", -1, NAN, INFINITE, 10**400, True, timedelta(seconds=5)]
BY_OPTION: dict[str, tuple[list[Any], str]] = {
    "deadline": ([0, *NO_SECONDS], r"deadline of saga 'place-order' is .*: give seconds .* more than 0"),
    "version": (
        [None, "1", -1, 1.5, True, 2**31, 2**70],
        r"version of saga 'place-order' is .*: give a whole number from 0 to 2147483647",
    ),
    "refusals": (
        [[ValueError], [Refused("no")], ["sold-out"], Refused, (one for one in [Refused]), None],
        r"refusals= of saga 'place-order' (is|has) .*(give a list, e\.g\. refusals=|inherit from Refused)",
    ),
    "key_fields": (["number", b"number", 1, (one for one in ["number"])], r"key_fields= of saga .*: give a list"),
    "output": ([Placed(), "Placed", 1, [int]], r"output of saga 'place-order' is .*: give a type"),
}
OF_SAGAS = [(option, given, says) for option, (values, says) in BY_OPTION.items() for given in values]


@pytest.mark.parametrize(
    ("option", "given", "says"), OF_SAGAS, ids=[f"{one[0]}={one[1]!r:.20}" for one in OF_SAGAS]
)
def test_an_option_of_a_saga_that_makes_no_sense_is_a_mistake(option: str, given: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        fresh(**{option: given})


@pytest.mark.parametrize("given", [Placed(), "Placed", "int", "", 1, [int], act])
def test_an_input_that_is_no_type_is_a_mistake(given: Any) -> None:
    with pytest.raises(DefinitionError, match=r"the input of saga 'keep' is .*: give a type"):
        Saga("keep", input=given)


@pytest.mark.parametrize("given", [1, None, b"keep", "", "a\n", "ä"])
def test_a_name_of_a_saga_that_is_no_name_is_a_mistake(given: Any) -> None:
    with pytest.raises(DefinitionError, match="is not a saga's name: use a-z, 0-9 and -"):
        Saga(given, input=int)


@pytest.mark.parametrize("given", [0, *NO_SECONDS], ids=lambda given: f"{given!r:.20}")
def test_a_timeout_that_makes_no_sense_is_a_mistake(given: Any) -> None:
    says = r"option timeout= of step 'reserve' of saga 'place-order' is .*: give seconds as a number, more than 0"
    with pytest.raises(DefinitionError, match=says):
        fresh().step(orders, timeout=given)(named("reserve"))


@pytest.mark.parametrize("option", ["retry", "undo_retry"])
@pytest.mark.parametrize("given", [3, 0, False, "3", Retry], ids=str)
def test_a_retry_is_no_number_of_attempts(option: str, given: Any) -> None:
    says = (
        rf"option {option}= of step 'reserve' of saga 'place-order' is .*: give a Retry, e\.g\. {option}=Retry\("
    )
    with pytest.raises(DefinitionError, match=says):
        fresh().step(orders, **{option: given})(named("reserve"))


def test_options_are_numbers_of_either_kind_and_lists_of_any_kind() -> None:
    saga = Saga("keep", input=Placed, version=2**31 - 1, key_fields={"number"}, refusals={Refused}, deadline=1)
    step = saga.step(orders, timeout=5, after=())(act)  # type: ignore[arg-type]
    assert (saga.key_fields, saga.refusals, step.timeout) == ({"number"}, {"refused": Refused}, 5)
    assert Saga("keep", input=Annotated[int, Field(ge=0)], output=list[int], version=0)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


Tuned = Annotated[Opaque, PlainSerializer(lambda _: "opaque"), BeforeValidator(lambda _: Opaque())]
Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


def test_what_annotated_adds_to_a_result_counts() -> None:
    saga: Saga[int, Any] = Saga("keep", input=int, output=Tuned)

    @saga.step(orders)
    async def find(db: Any, value: int, ctx: StepContext) -> Pet: ...

    @find.compensation
    async def lose(db: Any, value: int, done: Pet, ctx: StepContext) -> None: ...

    @saga.step(orders)
    async def keep(db: Any, value: int, ctx: StepContext) -> Tuned: ...

    assert define(saga).decision is keep
    assert keep.result.dump_json(Opaque()) == b'"opaque"'
    assert "discriminator" in find.result.json_schema()


def test_what_annotated_adds_makes_no_other_output() -> None:
    saga: Saga[int, int] = Saga("keep", input=int, output=int)

    @saga.step(orders)
    async def keep(db: Any, value: int, ctx: StepContext) -> Annotated[int, Field(ge=0)]: ...

    assert define(saga).decision is keep


class Bare(BaseModel, arbitrary_types_allowed=True):
    thing: Opaque


class OneWay(BaseModel, arbitrary_types_allowed=True):
    thing: Annotated[Opaque, PlainSerializer(lambda _: "opaque")]


class BothWays(BaseModel, arbitrary_types_allowed=True):
    thing: Tuned


def test_a_class_of_its_own_needs_both_a_serializer_and_a_validator() -> None:
    assert Saga("keep", input=BothWays)
    assert Saga("keep", input=list[Tuned])
    for kind in (Bare, OneWay, list[Opaque], Annotated[Opaque, BeforeValidator(lambda _: Opaque())]):
        with pytest.raises(DefinitionError, match="does not survive JSON"):
            Saga("keep", input=kind)


def test_names_that_only_type_checkers_know_may_stand_where_nothing_is_read_from_them() -> None:
    """Linters move the import of a session's class into `if TYPE_CHECKING:`."""

    def traced(work: Any) -> Any:
        @functools.wraps(work)
        async def wrapper(*given: Any) -> Any:
            return await work(*given)

        return wrapper

    saga = fresh()

    async def reserve(db: "Nowhere", value: "Nowhere", ctx: "Nowhere") -> "Placed":  # type: ignore[name-defined]  # noqa: F821
        return Placed()

    async def free(db: "Nowhere", value: "Nowhere", done: "Nowhere", ctx: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    async def mail(value: "Nowhere", ctx: "Nowhere") -> int:  # type: ignore[name-defined]  # noqa: F821
        return 1

    async def unmail(value: "Nowhere", done: "int | None", ctx: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    step = saga.step(orders)(traced(reserve))
    step.compensation(traced(free))
    saga.step(None)(traced(mail)).compensation(traced(unmail))
    assert step.result.dump_json(Placed()) == b'{"number":0}'


Alias = AsyncConnection


async def takes_a_connection(db: AsyncConnection, value: int, ctx: StepContext) -> None: ...


async def takes_a_session(db: AsyncSession, value: int, ctx: StepContext) -> None: ...


async def takes_a_name_for_type_checkers(db: "sa.AsyncConnection", value: int, ctx: StepContext) -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def takes_a_connection_by_another_name(conn: AsyncConnection, value: int, ctx: StepContext) -> None: ...


async def takes_an_annotated_connection(
    db: Annotated[AsyncConnection, "ours"], value: int, ctx: StepContext
) -> None: ...


async def takes_a_connection_or_none(db: AsyncConnection | None, value: int, ctx: StepContext) -> None: ...


async def takes_an_alias(db: "Alias", value: int, ctx: StepContext) -> None: ...


class Special(AsyncConnection):
    """A connection of a program's own kind."""


async def takes_a_subclass(db: Special, value: int, ctx: StepContext) -> None: ...


async def takes_anything(db: Any, value: int, ctx: StepContext) -> None: ...


async def takes_either(db: AsyncConnection | AsyncSession, value: int, ctx: StepContext) -> None: ...


async def says_nothing(db, value: int, ctx: StepContext) -> None: ...  # type: ignore[no-untyped-def]


@functools.wraps(takes_a_connection)
async def wrapped(*given: Any) -> None: ...


@pytest.mark.parametrize(
    ("action", "bare"),
    [
        (takes_a_connection, True),
        (takes_a_name_for_type_checkers, True),
        (takes_a_connection_by_another_name, True),
        (wrapped, True),
        (takes_an_annotated_connection, True),
        (takes_a_connection_or_none, True),
        (takes_an_alias, True),
        (takes_a_subclass, True),
        (takes_a_session, False),
        (takes_anything, False),
        (takes_either, False),
        (says_nothing, False),
    ],
)
def test_the_annotation_of_the_first_parameter_decides_what_a_step_gets(action: Any, *, bare: bool) -> None:
    saga = fresh()
    step = saga.step(orders)(action)
    assert step.bare is bare


async def undoes_on_a_connection(db: AsyncConnection, value: int, done: None, ctx: StepContext) -> None: ...


async def undoes_on_a_session(db: AsyncSession, value: int, done: None, ctx: StepContext) -> None: ...


async def undoes_silently(db, value: int, done: None, ctx: StepContext) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize("action", [takes_a_connection, takes_a_session])
@pytest.mark.parametrize("undo_it", [undoes_on_a_connection, undoes_on_a_session, undoes_silently, undo])
def test_a_compensation_gets_what_its_step_gets_and_says_nothing_else(action: Any, undo_it: Any) -> None:
    step: Step[Any, int, None] = fresh().step(orders)(action)
    if {action, undo_it} in ({takes_a_connection, undoes_on_a_session}, {takes_a_session, undoes_on_a_connection}):
        with pytest.raises(DefinitionError, match=r"compensation of step .* asks for another `db` than its step"):
            step.compensation(undo_it)
        return
    step.compensation(undo_it)
    assert step.undo is undo_it

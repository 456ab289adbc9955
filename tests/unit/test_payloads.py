"""Inputs and results on their way through JSON: what comes out is what went in, or it never goes in."""

import dataclasses
import json
import math
import sys
import typing
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from threading import Event as OfThreads
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FutureDatetime,
    PrivateAttr,
    RootModel,
    SecretStr,
    TypeAdapter,
    computed_field,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from polysaga.errors import DefinitionError, PayloadError, PayloadUnreadable
from polysaga.sagas import Saga
from polysaga.sagas.definition.payloads import decode, encode, fingerprint, is_immutable, is_same

LIMIT = 1000


class Order(BaseModel):
    """Everything a usual input has."""

    user_id: UUID
    quantity: int
    price: Decimal
    placed_at: datetime
    day: date
    tags: tuple[str, ...] = ()
    note: str | None = None
    extra: dict[str, int] = {}


ORDERS = st.builds(
    Order,
    user_id=st.uuids(),
    quantity=st.integers(min_value=-(2**63), max_value=2**63),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    placed_at=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    tags=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    note=st.none() | st.text(max_size=20),
    extra=st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(order=ORDERS)
def test_a_model_comes_back_as_it_went_in(order: Order) -> None:
    adapter = TypeAdapter(Order)
    assert decode(adapter, encode(adapter, order, what="it", limit=100_000), what="it") == order


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (type(None), None),
        (int, 7),
        (str, "\x00 é 🜨"),
        (list[int], [1, 2]),
        (dict[int, str], {1: "one"}),
        (int | None, None),
        (tuple[int, str], (1, "a")),
        (frozenset[int], frozenset({1, 2})),
    ],
)
def test_plain_types_come_back_as_they_went_in(kind: Any, value: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    assert decode(adapter, encode(adapter, value, what="it", limit=LIMIT), what="it") == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, "seven"),
        (type(None), 5),
        (Order, {"quantity": 1}),
        (bytes, b"\xff"),
        (str, "\ud800"),
        (object, object()),
    ],
)
def test_a_value_that_is_not_of_its_type_never_goes_in(kind: Any, value: Any) -> None:
    with pytest.raises(PayloadError, match="the result of step 'reserve' does not survive JSON"):
        encode(TypeAdapter(kind), value, what="the result of step 'reserve'", limit=LIMIT)


class Measured(BaseModel):
    degrees: float | None = None


class MeasuredInWords(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")

    degrees: float | None = None


@dataclasses.dataclass
class Row:
    measured: list[Measured]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Measured, Measured(degrees=math.nan)),
        (Measured, Measured(degrees=-math.inf)),
        (Row, Row([Measured(), Measured(degrees=math.nan)])),
        (float | None, math.inf),
        (dict[str, float | None], {"here": None, "there": math.nan}),
        (set[float | None], {1.0, math.nan}),
        (tuple[float | None, int], (math.nan, 1)),
        (Any, {"there": [math.nan]}),
    ],
)
def test_a_number_that_json_has_no_sign_for_is_refused_and_does_not_become_null(kind: Any, value: Any) -> None:
    with pytest.raises(PayloadError, match=r"it does not survive JSON: it holds (nan|-?inf), .* as null; leave"):
        encode(TypeAdapter(kind), value, what="it", limit=LIMIT)


def test_a_number_that_json_has_no_sign_for_is_taken_from_a_type_that_writes_it_in_words() -> None:
    adapter, value = TypeAdapter(MeasuredInWords), MeasuredInWords(degrees=math.inf)
    assert decode(adapter, encode(adapter, value, what="it", limit=LIMIT), what="it") == value


def test_the_limit_counts_bytes_and_names_the_setting() -> None:
    adapter = TypeAdapter(str)
    assert encode(adapter, "é" * 9, what="it", limit=20) == '"' + "é" * 9 + '"'
    with pytest.raises(PayloadError, match=r"it is 22 bytes as JSON, more than the 20 of sagas\.payload_limit"):
        encode(adapter, "é" * 10, what="it", limit=20)


def test_a_text_that_does_not_fit_its_type_any_more_is_told() -> None:
    with pytest.raises(
        PayloadUnreadable, match="the input of saga x in the journal does not fit its type any more"
    ):
        decode(TypeAdapter(int), '"seven"', what="the input of saga x")


@given(value=st.dictionaries(st.text(max_size=4), JSON, max_size=5), chance=st.randoms(use_true_random=False))
def test_the_fingerprint_does_not_depend_on_the_order_of_fields_or_on_spaces(
    value: dict[str, Any], chance: Any
) -> None:
    names = list(value)
    chance.shuffle(names)
    adapter: TypeAdapter[Any] = TypeAdapter(Any)
    given_text = adapter.dump_json(value).decode()
    shuffled = adapter.dump_json({name: value[name] for name in names}, indent=2).decode()
    assert fingerprint(given_text, None) == fingerprint(shuffled, None)


@given(first=JSON, second=JSON)
def test_the_fingerprint_tells_different_values_apart(first: Any, second: Any) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (fingerprint(json.dumps(first), None) == fingerprint(json.dumps(second), None)) == same


class Tag(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    kinds: frozenset[int] = frozenset()


class Tagged(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    all_tags: set[Tag]
    by_shelf: dict[int, list[frozenset[int]]] = {}


@dataclasses.dataclass
class Crate:
    numbers: set[int]


# Whole numbers that share a place in a set's table come out in the order in which they went in.
ONE, OTHER = [0, 8, 16], [16, 8, 0]


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (frozenset[int], frozenset),
        (tuple[set[int], int], lambda numbers: (set(numbers), 1)),
        (RootModel[set[int]], lambda numbers: RootModel[set[int]](set(numbers))),
        (Crate, lambda numbers: Crate(set(numbers))),
        (dict[str, set[int]], lambda numbers: {"a": set(numbers)}),
        (Tagged, lambda numbers: Tagged(all_tags={Tag(name="a", kinds=frozenset(numbers))})),
        (Tagged, lambda numbers: Tagged(all_tags=set(), by_shelf={1: [frozenset(numbers)]})),
    ],
)
def test_equal_sets_are_the_same_input_in_whatever_order_they_are_written(kind: Any, make: Any) -> None:
    adapter = TypeAdapter(kind)
    one, other, less = (
        encode(adapter, make(numbers), what="it", limit=10_000) for numbers in (ONE, OTHER, ONE[:2])
    )
    assert one != other, "the same text would show nothing"
    assert is_same(adapter, one, other, None)
    assert not is_same(adapter, one, less, None)


def test_only_sets_may_be_written_in_another_order() -> None:
    assert not is_same(TypeAdapter(list[int]), "[0, 8]", "[8, 0]", None)


def test_sets_are_compared_in_the_fields_that_a_key_vouches_for() -> None:
    adapter = TypeAdapter(Tagged)
    one, other = '{"allTags": [], "byShelf": {"1": [[0, 8]]}}', '{"allTags": [], "byShelf": {"1": [[8, 0]]}}'
    assert is_same(adapter, one, other, ["byShelf"])
    assert not is_same(adapter, one, '{"allTags": [], "byShelf": {"1": [[8]]}}', ["byShelf"])


def test_with_fields_only_these_are_vouched_for() -> None:
    fields = ["user", "quantity"]
    first = fingerprint('{"user": 1, "quantity": 2, "sent_at": "10:00"}', fields)
    assert first == fingerprint('{"sent_at": "10:01", "quantity": 2, "user": 1}', fields)
    assert first != fingerprint('{"user": 1, "quantity": 3, "sent_at": "10:00"}', fields)


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    user_id: int


class Priced(BaseModel):
    model_config = ConfigDict(extra="forbid")

    price: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def doubled(self) -> int:
        return 2 * self.price


class Card(BaseModel):
    number: SecretStr


LOSSY = [
    pytest.param(Camel, Camel(userId=1), id="a model with aliases"),  # type: ignore[call-arg]
    pytest.param(Priced, Priced(price=1), id="a computed field in a strict model"),
    pytest.param(float, math.inf, id="infinity"),
    pytest.param(dict[tuple[int, int], int], {(1, 2): 3}, id="a tuple as a key"),
]


@pytest.mark.parametrize(("kind", "value"), LOSSY)
def test_what_goes_in_comes_back_or_is_refused_at_once(kind: Any, value: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        text = encode(adapter, value, what="it", limit=LIMIT)
    except PayloadError:
        return
    assert decode(adapter, text, what="it") == value


class Later(BaseModel):
    order: "OrderOfAnotherModule"  # type: ignore[name-defined]  # noqa: F821


class OldDict(typing.TypedDict):
    item: str


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Later, "Later, names a type that is not defined yet; define it before the saga"),
        (OfThreads, "Event, does not survive JSON; use a pydantic model"),
        pytest.param(
            list[OldDict],
            r"OldDict\], uses typing.TypedDict, unknown to pydantic before Python 3.12; use typing_ext",
            marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic reads it"),
        ),
    ],
)
def test_a_type_that_pydantic_does_not_know_is_refused_with_the_reason(kind: Any, problem: str) -> None:
    with pytest.raises(DefinitionError, match=f"the input of saga 'pay', .*{problem}"):
        Saga("pay", input=kind)


def test_a_type_that_hides_its_value_in_json_is_refused_when_the_saga_is_declared() -> None:
    with pytest.raises(DefinitionError, match="Card, holds a secret, which JSON shows as"):
        Saga("pay", input=Card)


class Inner(BaseModel):
    user_id: int = Field(validation_alias="userId")


class ByDefault(BaseModel):
    user_id: int = Field(default=0, validation_alias=AliasChoices("userId", "uid"))


class ByPath(BaseModel):
    user_id: int = Field(validation_alias=AliasPath("user", 0))


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)

    user_id: int = Field(alias="userId")


class Hidden(BaseModel):
    token: str = Field(exclude=True)


class Stream(BaseModel):
    places: Iterable[int]


class Soon(BaseModel):
    at: FutureDatetime | None = None


class Tree(BaseModel):
    inner: Inner
    below: "list[Tree]" = []


@dataclasses.dataclass
class Given:
    kind: str
    secret: dataclasses.InitVar[int]


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Inner, r"field 'user_id' is written as 'user_id' and read as 'userId'; give it one name for both"),
        (ByDefault, "read as 'userId' or 'uid'"),
        (ByPath, "read as a part of another field"),
        (ByName, "written as 'userId' and read as 'user_id'"),
        (list[Inner], "read as 'userId'"),
        (dict[str, Inner | None], "read as 'userId'"),
        (Tree, "read as 'userId'"),
        (Hidden, "'token' is required and not written; give it a default"),
        (Given, "'secret' is required and not written"),
        (Stream, r"the first reader of an Iterable uses it up; use list\[...\]"),
        (Soon, "in the future is refused when it is read later"),
    ],
)
def test_a_type_that_cannot_be_read_back_as_it_was_is_refused_when_the_saga_is_declared(
    kind: Any, problem: str
) -> None:
    with pytest.raises(DefinitionError, match=f"the input of saga 'pay', .*, cannot be read back.*{problem}"):
        Saga("pay", input=kind)


class EitherName(BaseModel):
    user_id: int = Field(validation_alias=AliasChoices("userId", "user_id", AliasPath("user", 0)))


class Populated(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    user_id: int = Field(validation_alias="userId")


class Twice(BaseModel):
    """Reads and writes in a way of its own."""

    user_id: int = Field(validation_alias="userId")

    @model_validator(mode="before")
    @classmethod
    def renamed(cls, value: Any) -> Any:
        return {"userId": value["user_id"]} if "user_id" in value else value


class Written(BaseModel):
    user_id: int = Field(validation_alias="userId")

    @model_serializer
    def with_its_alias(self) -> dict[str, Any]:
        return {"userId": self.user_id}


class Odd(BaseModel):
    """Fields named like the words of pydantic's schemas."""

    type: str = "generator"
    schema_: dict[str, Any] = Field(default={"type": "generator"}, alias="schema")
    fields: list[str] = ["type"]
    choices: Literal["generator"] = "generator"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (EitherName, {"userId": 1}),
        (Populated, {"userId": 1}),
        (Twice, {"userId": 1}),
        (Written, {"userId": 1}),
        (Odd, {}),
        (RootModel[list[int]], [1]),
        (Annotated[int, BeforeValidator(int)], 1),
    ],
)
def test_a_type_that_can_be_read_back_is_taken_whatever_its_aliases(kind: Any, value: Any) -> None:
    adapter: TypeAdapter[Any] = Saga("pay", input=kind).input
    one = adapter.validate_python(value)
    assert decode(adapter, encode(adapter, one, what="it", limit=LIMIT), what="it") == one


def test_key_fields_are_named_as_they_are_written() -> None:
    class Two(BaseModel):
        user_id: int = Field(validation_alias=AliasChoices("userId", "user_id"))
        note: str = Field(default="", exclude=True)

        @computed_field  # type: ignore[prop-decorator]
        @property
        def doubled(self) -> int:
            return 2 * self.user_id

    assert Saga("pay", input=Two, key_fields=["user_id"]).key_fields == ["user_id"]
    for missing in ("userId", "note", "doubled"):
        with pytest.raises(DefinitionError, match=f"no field '{missing}' for key_fields; known: user_id"):
            Saga("pay", input=Two, key_fields=[missing])


class Colour(Enum):
    RED = "red"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    held: Any


class Open(Frozen):
    model_config = ConfigDict(extra="allow")


class Private(Frozen):
    _seen: list[int] = PrivateAttr(default_factory=list)


class Mutable(BaseModel):
    held: Any


class Text(str):
    """A text that takes attributes."""


MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLAIN = [None, True, 1, 1.5, "text", b"bytes", Decimal(1), UUID(int=1), MOMENT, timedelta(1), Colour.RED]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_a_plain_value_is_immutable_alone_and_held_by_what_is(value: Any) -> None:
    for one in (value, (value, (value,)), frozenset({value}), Frozen(held=value), Frozen(held=Frozen(held=value))):
        assert is_immutable(one)


@pytest.mark.parametrize(
    "value",
    [[], {}, set(), Mutable(held=1), Private(held=1), Open(held=1, more=[]), Text("text"), object()],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_changed_is_not_immutable_wherever_it_is(value: Any) -> None:
    for one in (value, (value,), Frozen(held=value), Frozen(held=(Frozen(held=value),))):
        assert not is_immutable(one)

"""What users write into sagas: the same on the first run, after a takeover, and for a repeated key."""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from polysaga import Databases, Refused, Retry, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import SagaSettings, parse_settings
from polysaga.errors import KeyReused, SagaFailed
from polysaga.events import SagaParked, StepFailed, WorkerTicked
from polysaga.migrations import migrate
from polysaga.sagas.definition.definition import define
from polysaga.sagas.definition.payloads import decode
from polysaga.sagas.driving.user_code import awaited
from polysaga.sagas.process.runner import LocalRunner
from tests.fixtures.programs import Recorder, take_over
from tests.fixtures.runners import KeptRunner
from tests.fixtures.waiting import forever, reached

QUICK = Retry(within=5.0, first=0.001)


class Payment(BaseModel):
    kind: str = "any"


class Card(Payment):
    number: str = "4111"


class Order(BaseModel):
    """Everything that JSON changes."""

    payment: Payment = Payment()
    token: str = Field(default="none", exclude=True)
    extra: dict[str, Any] = {}
    day: str | date = ""
    tags: list[str] = []


CHANGED = {
    "a subclass": Order(payment=Card()),
    "an excluded field": Order(token="abc"),
    "anything": Order(
        extra={"id": uuid.uuid4(), "at": datetime.now(UTC), "price": Decimal("1.10"), "pair": (1, 2)}
    ),
    "a date where a text may be": Order(day=date(2026, 1, 1)),
}


class Shop:
    """A saga of two steps in one SQLite file; what each of them sees is noted."""

    def __init__(self, url: str, kind: Any = Order) -> None:
        self.url, self.seen, self.recorder = url, list[tuple[str, Any]](), Recorder()
        self.hooks: dict[str, Callable[[Any, StepContext], Awaitable[None]]] = {}
        self.orders = SqlDatabase("orders")
        self.databases = Databases(self.orders)
        self.saga: Saga[Any, Any] = Saga("buy", input=kind, output=kind, refusals=[SoldOut])

        @self.saga.step(self.orders, retry=QUICK)
        async def take(db: Any, order: kind, ctx: StepContext) -> kind:
            await self._note("take", order, ctx)
            return order

        @take.compensation
        async def give_back(db: Any, order: kind, done: kind, ctx: StepContext) -> None:
            await self._note("give_back", (order, done), ctx)

        @self.saga.step(self.orders, kind="pivot", retry=QUICK)
        async def decide(db: Any, order: kind, ctx: StepContext) -> kind:
            await self._note("decide", (order, ctx.result(take)), ctx)
            return order

        self._kept = KeptRunner()
        self.sagas = Sagas(self.databases, self.saga, journal=self.orders, runner=self._kept)

    async def _note(self, step: str, value: Any, ctx: StepContext) -> None:
        self.seen.append((step, repr(value)))
        if step in self.hooks:
            await self.hooks[step](value, ctx)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Shop"]:
        async with self.databases.open(parse_settings({"databases": {"orders": {"url": self.url}}})):
            await migrate(self.sagas)
            async with self.sagas.open(SagaSettings(drain=0.05), emit=self.recorder):
                await self.recorder.wait_for(WorkerTicked)
                yield self

    @property
    def runner(self) -> LocalRunner:
        """What drives the sagas."""
        return self._kept.runner

    async def stored(self, saga_id: uuid.UUID) -> Any:
        row = await self.runner.engine.journal.load(saga_id)
        assert row is not None
        return decode(self.saga.input, row.input, what="it")


class SoldOut(Refused):
    """A refusal whose text needs what its constructor sets."""

    def __init__(self, product: object) -> None:
        super().__init__("sold out", product=product, price=Decimal("1.10"))
        self.product = product

    def __str__(self) -> str:
        return f"no {self.product} left"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/orders.db"


@pytest.mark.parametrize("order", CHANGED.values(), ids=CHANGED)
async def test_every_step_and_every_caller_sees_what_a_takeover_would_see(url: str, order: Order) -> None:
    async with Shop(url).open() as shop:
        handle = await shop.sagas.start(shop.saga, order, key="k")
        first = await handle.result(30)
        stored = await shop.stored(handle.id)
        assert shop.seen == [("take", repr(stored)), ("decide", repr((stored, stored)))]
    async with Shop(url).open() as another:
        again = await another.sagas.run(another.saga, order, key="k", timeout=30)
        assert repr(again) == repr(first) == repr(stored)


async def test_a_takeover_sees_what_the_first_run_saw(url: str) -> None:
    first, second = Shop(url), Shop(url)

    async def stay(value: Any, ctx: StepContext) -> None:
        arrived.set()
        await forever()

    arrived = asyncio.Event()
    first.hooks["decide"] = stay
    async with first.open(), second.open():
        handle = await first.sagas.start(first.saga, CHANGED["anything"], key="k")
        await reached(arrived, "the pivot runs")
        await take_over(second, handle.id)  # type: ignore[arg-type]
        await second.sagas.run(second.saga, CHANGED["anything"], key="k", timeout=30)
        assert second.seen == [seen for seen in first.seen if seen[0] == "decide"]


async def test_a_step_that_changes_its_input_or_a_result_changes_it_for_no_other(url: str) -> None:
    """No other step, no later attempt, no compensation, no caller sees it: a takeover could not see it either."""
    async with Shop(url).open() as shop:

        async def spoil(value: Any, ctx: StepContext) -> None:
            for one in value if isinstance(value, tuple) else (value,):
                one.tags.append(ctx.step)
            if ctx.attempt == 1 and ctx.step == "decide":
                raise TimeoutError("once more")
            if ctx.step == "decide":
                raise SoldOut("tea")

        shop.hooks = {"take": spoil, "decide": spoil}
        mine = Order(tags=["mine"])
        with pytest.raises(SoldOut):
            await shop.sagas.run(shop.saga, mine, timeout=30)
        taken = Order(tags=["mine", "take"])
        assert mine.tags == ["mine"]
        assert shop.seen == [
            ("take", repr(mine)),
            ("decide", repr((mine, taken))),
            ("decide", repr((mine, taken))),
            ("give_back", repr((mine, taken))),
        ]


async def test_callers_of_one_saga_get_outputs_of_their_own(url: str) -> None:
    async with Shop(url).open() as shop:
        handle = await shop.sagas.start(shop.saga, Order(), key="k")
        (await handle.result(30)).tags.append("mine")
        assert (await handle.result(30)).tags == []


async def test_the_first_caller_and_a_later_one_are_refused_with_the_same_words_and_facts(url: str) -> None:
    async def refuse(value: Any, ctx: StepContext) -> None:
        raise SoldOut(uuid.UUID(int=7))

    told: list[tuple[str, Mapping[str, object], object]] = []
    for _ in range(2):
        async with Shop(url).open() as shop:
            shop.hooks["decide"] = refuse
            with pytest.raises(SoldOut) as refused:
                await shop.sagas.run(shop.saga, Order(), key="k", timeout=30)
            told.append((str(refused.value), refused.value.facts, refused.value.saga_id))
    assert told[0] == told[1]
    assert told[0][1] == {"product": str(uuid.UUID(int=7)), "price": "1.10"}


class Wordless(BaseException):
    """An error that is no `Exception`, without a text."""

    def __str__(self) -> str:
        raise ValueError


ODD_ERRORS = [
    GeneratorExit(),
    Wordless(),
    BaseExceptionGroup("several", [KeyError("price"), asyncio.CancelledError()]),
    BaseExceptionGroup("several", [BaseExceptionGroup("more", [GeneratorExit()])]),
    pytest.skip.Exception("not today"),
]


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda error: type(error).__name__)
async def test_whatever_a_step_raises_is_a_failure_of_the_step(url: str, error: BaseException) -> None:
    async def fail(value: Any, ctx: StepContext) -> None:
        raise error

    async with Shop(url).open() as shop:
        for step in ("take", "decide"):
            shop.hooks = {step: fail}
            with pytest.raises(SagaFailed, match=f"step '{step}' raised"):
                await shop.sagas.run(shop.saga, Order(), timeout=10)
        assert [step for step, _ in shop.seen] == ["take", "take", "decide", "give_back"]


async def test_whatever_a_compensation_raises_is_a_failed_attempt_of_it(url: str) -> None:
    async def fail(value: Any, ctx: StepContext) -> None:
        raise GeneratorExit if ctx.step == "take" and ctx.attempt == 1 else SoldOut("tea")

    async with Shop(url).open() as shop:
        shop.hooks = {"give_back": fail, "decide": fail}
        define(shop.saga).by_name["take"].undo_retry = QUICK
        failed = asyncio.ensure_future(shop.sagas.run(shop.saga, Order(), timeout=10))
        await shop.recorder.wait_for(StepFailed, lambda event: "GeneratorExit" in event.reason)
        shop.hooks.pop("give_back")
        with pytest.raises(SoldOut):
            await failed


async def test_a_group_of_nothing_but_cancellations_is_one(url: str) -> None:
    async def be_cancelled(value: Any, ctx: StepContext) -> None:
        raise BaseExceptionGroup("all", [asyncio.CancelledError(), asyncio.CancelledError()])

    async with Shop(url).open() as shop:
        shop.hooks = {"decide": be_cancelled}
        with pytest.raises(SagaFailed, match="awaited something that was cancelled"):
            await shop.sagas.run(shop.saga, Order(), timeout=10)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "in groups"])
async def test_what_ends_a_program_passes(error: BaseException, grouped: bool) -> None:
    async def leave() -> None:
        raise BaseExceptionGroup("all", [BaseExceptionGroup("ends", [error])]) if grouped else error

    with pytest.raises(type(error)):
        await awaited(leave())


async def test_a_coroutine_that_is_closed_is_no_failed_step() -> None:
    """It is closed when its event loop ends before it: nothing may be made of that, and nothing awaited."""
    ended: list[BaseException] = []

    async def step() -> None:
        try:
            await forever()
        except BaseException as error:
            ended.append(error)
            raise

    async def owner() -> None:
        try:
            await awaited(step())
        except BaseException as error:
            ended.append(error)
            raise

    running = owner()
    running.send(None)
    running.close()
    assert [type(error) for error in ended] == [GeneratorExit, GeneratorExit]


class Grumpy(BaseModel):
    n: int = 0

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        if Grumpy.angry:
            raise LookupError("a validator may raise anything")
        return n

    angry: ClassVar[bool] = False


async def test_a_validator_that_fails_at_a_takeover_parks_the_saga(url: str) -> None:
    first, second = Shop(url, Grumpy), Shop(url, Grumpy)
    arrived = asyncio.Event()

    async def stay(value: Any, ctx: StepContext) -> None:
        arrived.set()
        await forever()

    first.hooks["decide"] = stay
    async with first.open(), second.open():
        handle = await first.sagas.start(first.saga, Grumpy())
        await reached(arrived, "the pivot runs")
        Grumpy.angry = True
        try:
            await take_over(second, handle.id)  # type: ignore[arg-type]
            await second.recorder.wait_for(SagaParked)
        finally:
            Grumpy.angry = False


class First(BaseModel):
    """An input, as the program had it first."""

    user: int = Field(alias="userId")
    price: Decimal = Decimal(1)
    when: datetime | None = None


class WithANewField(First):
    note: str = "none"
    tags: list[str] = []


class WithAnotherDefault(First):
    price: Decimal = Decimal(2)


class WithAnotherAlias(First):
    user: int = Field(alias="user_id")


class Strict(First):
    """Not said by its client: the fields that it does not know."""

    model_config = ConfigDict(extra="forbid")


@dataclasses.dataclass
class Old:
    user: int


@dataclasses.dataclass
class New:
    user: int
    note: str = "none"


LATER = {
    "a new field with a default": (First, {"userId": 7}, WithANewField, {"userId": 7}),
    "another default": (First, {"userId": 7}, WithAnotherDefault, {"userId": 7}),
    "another alias": (First, {"userId": 7}, WithAnotherAlias, {"user_id": 7}),
    "a default that is said now": (First, {"userId": 7}, First, {"userId": 7, "price": 1}),
    "another spelling": (First, {"userId": 7, "price": "1.5"}, First, {"userId": "7", "price": 1.5}),
    "a dataclass with a new field": (Old, {"user": 7}, New, {"user": 7}),
}


def as_sent(kind: Any, body: dict[str, Any]) -> Any:
    return TypeAdapter(kind).validate_python(body)


@pytest.mark.parametrize(("before", "body", "after", "again"), LATER.values(), ids=LATER)
async def test_a_request_that_is_repeated_after_a_deployment_joins_its_saga(
    url: str, before: Any, body: Any, after: Any, again: Any
) -> None:
    async with Shop(url, before).open() as shop:
        first = await shop.sagas.start(shop.saga, as_sent(before, body), key="k")
        await first.result(30)
    async with Shop(url, after).open() as shop:
        second = await shop.sagas.start(shop.saga, as_sent(after, again), key="k")
        assert (second.id, second.joined) == (first.id, True)
        async with shop.orders.writer() as tx:
            third = await shop.sagas.start(shop.saga, as_sent(after, again), key="k", tx=tx)
            assert (third.id, third.joined) == (first.id, True)


@pytest.mark.parametrize(
    ("after", "again"),
    [
        (WithANewField, {"userId": 8}),
        (WithANewField, {"userId": 7, "note": "some"}),
        (WithAnotherDefault, {"userId": 7, "price": 2}),
        (Strict, {"userId": 8}),
    ],
)
async def test_another_request_is_refused_after_a_deployment_as_before(url: str, after: Any, again: Any) -> None:
    async with Shop(url, First).open() as shop:
        await shop.sagas.run(shop.saga, as_sent(First, {"userId": 7}), key="k", timeout=30)
    async with Shop(url, after).open() as shop:
        with pytest.raises(KeyReused):
            await shop.sagas.start(shop.saga, as_sent(after, again), key="k")
        async with shop.orders.writer() as tx:
            with pytest.raises(KeyReused):
                await shop.sagas.start(shop.saga, as_sent(after, again), key="k", tx=tx)


async def test_key_fields_may_come_and_go(url: str) -> None:
    def shop_with(fields: list[str] | None) -> Shop:
        shop = Shop(url, First)
        shop.saga.key_fields = fields
        return shop

    async with shop_with(None).open() as shop:
        await shop.sagas.run(shop.saga, as_sent(First, {"userId": 7}), key="k", timeout=30)
    async with shop_with(["userId"]).open() as shop:
        now = as_sent(First, {"userId": 7, "when": datetime.now(UTC)})
        assert (await shop.sagas.start(shop.saga, now, key="k")).joined
        with pytest.raises(KeyReused):
            await shop.sagas.start(shop.saga, as_sent(First, {"userId": 8}), key="k")
    async with shop_with(None).open() as shop:
        assert (await shop.sagas.start(shop.saga, as_sent(First, {"userId": 7}), key="k")).joined
        with pytest.raises(KeyReused):
            await shop.sagas.start(shop.saga, now, key="k")


async def test_a_key_field_that_is_null_is_not_one_that_is_left_out(url: str) -> None:
    class Amount(BaseModel):
        amount: int | None = 5

    shop = Shop(url, Amount)
    shop.saga.key_fields = ["amount"]
    async with shop.open():
        await shop.sagas.run(shop.saga, Amount(), key="k", timeout=30)
        with pytest.raises(KeyReused):
            await shop.sagas.start(shop.saga, Amount(amount=None), key="k")
        assert (await shop.sagas.start(shop.saga, Amount(amount=5), key="k")).joined

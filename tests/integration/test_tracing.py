"""Traces of sagas, as the SDK of OpenTelemetry exports them: one for each saga, also after a kill -9."""

import asyncio
import copy
import gc
import json
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from time import time_ns
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import StatusCode
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, MongoSession, StepContext
from polysaga.errors import NeedsAttention, Refused
from polysaga.events import SagaClaimed, SagaFinished
from polysaga.sagas import Status
from polysaga.sagas.protocol.rows import Birth, Claim
from polysaga.telemetry import late_spans
from polysaga.telemetry.late_spans import LateSpan
from polysaga.telemetry.tracing import SagaTracing
from polysaga.texts import said
from tests.fixtures.processes import begin, next_line
from tests.fixtures.programs import CALLS_ONLY, PLACE_ORDER, QUICK, WITH_CALLS, Order, Program, Urls
from tests.fixtures.setups import MigratedUrls
from tests.fixtures.waiting import PATIENCE, forever, reached, until, within


class Traced:
    """A program whose spans are kept in memory."""

    def __init__(self, urls: Urls, shape: Any = PLACE_ORDER, **options: Any) -> None:
        self.exporter, self.provider = InMemorySpanExporter(), TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.program = Program(urls, shape)
        self.program.tracing = SagaTracing(self.program.databases, provider=self.provider)
        for step in self.program.steps.values():
            step.undo_retry = QUICK

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        (found,) = self.of(name)
        return found

    async def run(self) -> UUID:
        program = self.program
        handle = await program.sagas.start(program.saga, Order())
        try:
            await handle.result(30)
        finally:
            await self.left()
        return handle.id

    async def left(self) -> None:
        """Return when no saga is driven here any more."""
        await until(lambda: self.program.sagas.in_flight == 0, "the process has left the saga")


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def fail(db: object, ctx: StepContext) -> None:
    raise TimeoutError


def fail_once(error: type[Exception]) -> Callable[[object, StepContext], Awaitable[None]]:
    async def work(db: object, ctx: StepContext) -> None:
        if ctx.attempt == 1:
            raise error

    return work


async def refuse(db: object, ctx: StepContext) -> None:
    raise Refused("nothing is left")


async def test_a_saga_is_one_trace_over_all_its_databases(urls: Urls) -> None:
    traced = Traced(urls)
    async with traced.program.open():
        saga_id = await traced.run()
        root = traced.only("saga place-order")
        assert (await traced.program.sagas.get(saga_id)).trace_id == f"{root.context.trace_id:032x}"
        assert root.parent is None
        assert {span.context.trace_id for span in traced.spans} == {root.context.trace_id}
        steps = [span for span in traced.spans if span.name.startswith("step ")]
        assert {span.name for span in steps} == {f"step {name}" for name, *_ in PLACE_ORDER}
        assert len(traced.spans) == 1 + len(steps)  # an ordinary saga has no more
        for span in steps:
            assert span.parent is not None
            assert span.parent.span_id == root.context.span_id
            assert facts(span).items() >= {
                ("polysaga.saga.id", str(saga_id)),
                ("polysaga.saga.name", "place-order"),
                ("polysaga.saga.epoch", 1),
            }
        reserved = facts(traced.only("step reserve_stock"))
        assert (reserved["polysaga.step.name"], reserved["polysaga.step.attempt"]) == ("reserve_stock", 1)
        assert "polysaga.step.outcome" not in reserved


async def test_spans_name_their_database_by_the_standard_attributes(urls: Urls) -> None:
    traced = Traced(urls)
    async with traced.program.open():
        await traced.run()
    kinds = {"sqlite+aiosqlite": "sqlite", "postgresql+asyncpg": "postgresql", "mongodb": "mongodb"}
    kinds |= {"mariadb+asyncmy": "mariadb", "mysql+asyncmy": "mysql"}
    for step, database in {
        "open_order": "orders",
        "reserve_stock": "inventory",
        "credit_points": "points",
    }.items():
        found, url = facts(traced.only(f"step {step}")), urls[database]
        assert found["db.system.name"] == kinds[url.partition("://")[0]]
        assert found["db.namespace"] in url
        assert "password" not in json.dumps(found)


async def test_the_request_and_its_saga_are_linked_both_ways(urls: Urls) -> None:
    traced = Traced(urls)
    async with traced.program.open():
        with traced.provider.get_tracer("http").start_as_current_span("POST /orders") as request:
            await traced.run()
    root, asked = traced.only("saga place-order"), request.get_span_context()
    assert [link.context.span_id for link in root.links] == [asked.span_id]
    assert root.context.trace_id != asked.trace_id
    assert [link.context.span_id for link in traced.only("POST /orders").links] == [root.context.span_id]


@pytest.mark.parametrize("shape", [PLACE_ORDER, WITH_CALLS], ids=["databases", "calls"])
async def test_what_a_step_traces_itself_nests_below_its_attempt(urls: Urls, shape: Any) -> None:
    traced = Traced(urls, shape)
    tracer = traced.provider.get_tracer("user")

    async def work(db: object, ctx: StepContext) -> None:
        with tracer.start_as_current_span(f"inside {ctx.step}"):
            pass

    for name in traced.program.steps:
        traced.program.on(name, work)
    async with traced.program.open():
        await traced.run()
    for name in traced.program.steps:
        inside, attempt = traced.only(f"inside {name}"), traced.only(f"step {name}")
        assert inside.parent is not None
        assert inside.parent.span_id == attempt.context.span_id


async def test_what_a_step_adds_to_the_current_span_is_on_its_attempt(urls: Urls) -> None:
    traced = Traced(urls)
    elsewhere = trace.SpanContext(trace_id=1, span_id=2, is_remote=True)
    seen: list[Any] = []

    async def work(db: object, ctx: StepContext) -> None:
        span = trace.get_current_span()
        seen.append(span.is_recording())
        span.set_attribute("one", 1)
        span.set_attributes({"two": 2})
        span.add_event("noted", {"three": 3}, timestamp=3)
        span.add_link(elsewhere, {"four": 4})
        span.record_exception(LookupError("nothing here"), {"five": 5}, timestamp=5, escaped=True)
        span.set_status(StatusCode.ERROR, "six")
        span.update_name("seven")
        seen.append(dict(span.attributes))  # type: ignore[attr-defined] - beside the API, of the SDK's spans
        seen.append(span.get_span_context())

    traced.program.on("reserve_stock", work)
    async with traced.program.open():
        await traced.run()
    span = traced.only("seven")
    assert {"one": 1, "two": 2, "polysaga.step.name": "reserve_stock"}.items() <= facts(span).items()
    assert [(event.name, event.timestamp) for event in span.events] == [("noted", 3), ("exception", 5)]
    assert facts(span.events[1])["exception.escaped"] == "True"
    assert [(link.context, dict(link.attributes or {})) for link in span.links] == [(elsewhere, {"four": 4})]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "six")
    assert seen[0] is True
    assert seen[1] == facts(span)
    assert seen[2] == span.context


async def test_what_comes_behind_an_attempt_is_not_on_its_span(urls: Urls) -> None:
    traced = Traced(urls)
    kept: list[trace.Span] = []

    async def keep(db: object, ctx: StepContext) -> None:
        kept.append(trace.get_current_span())

    async def add(db: object, ctx: StepContext) -> None:
        (span,) = kept
        assert not span.is_recording()
        span.set_attribute("late", 1)
        span.end()
        kept.append(trace.NonRecordingSpan(span.get_span_context()))

    traced.program.on("open_order", keep)
    traced.program.on("confirm_order", add)
    async with traced.program.open():
        await traced.run()
    span = traced.only("step open_order")
    assert "late" not in facts(span)
    assert kept[1].get_span_context() == span.context


async def test_another_thread_that_asks_has_the_span_of_the_attempt(urls: Urls) -> None:
    traced = Traced(urls)
    tracer = traced.provider.get_tracer("user")

    def inside(number: int) -> None:
        with tracer.start_as_current_span(f"thread {number}"):
            pass

    async def work(db: object, ctx: StepContext) -> None:
        await asyncio.gather(*(asyncio.to_thread(inside, number) for number in range(8)))

    traced.program.on("open_order", work)
    async with traced.program.open():
        await traced.run()
    attempt = traced.only("step open_order")
    assert [traced.only(f"thread {number}").parent for number in range(8)] == [attempt.context] * 8


async def test_spans_have_the_times_of_their_attempts(urls: Urls) -> None:
    traced = Traced(urls)
    times: dict[str, int] = {}

    async def note(db: object, ctx: StepContext) -> None:
        times[ctx.step] = time_ns()

    for name in traced.program.steps:
        traced.program.on(name, note)
    async with traced.program.open():
        await traced.run()
    root = traced.only("saga place-order")
    assert root.end_time is not None
    for name, inside in times.items():
        attempt = traced.only(f"step {name}")
        assert attempt.start_time is not None
        assert attempt.end_time is not None
        assert attempt.start_time <= inside <= attempt.end_time
    confirmed, opened = traced.only("step confirm_order"), traced.only("step open_order")
    assert opened.end_time is not None
    assert opened.end_time <= times["confirm_order"]
    assert confirmed.start_time is not None
    assert opened.end_time <= confirmed.start_time


async def test_spans_are_exported_while_their_saga_goes_on(urls: Urls) -> None:
    traced = Traced(urls)
    go_on = asyncio.Event()

    async def wait(db: object, ctx: StepContext) -> None:
        await reached(go_on, "the test lets the saga go on")

    traced.program.on("confirm_order", wait)
    async with traced.program.open():
        running = asyncio.create_task(traced.run())
        await until(lambda: len(traced.of("step credit_points")) == 1, "the step before has a span")
        assert traced.program.sagas.in_flight == 1
        go_on.set()
        await running


async def test_many_sagas_at_once_have_all_their_spans_when_the_last_one_is_left(urls: Urls) -> None:
    traced = Traced(urls)
    async with traced.program.open():
        ids = await asyncio.gather(*(traced.run() for _ in range(12)))
    spans = Counter((facts(span)["polysaga.saga.id"], span.name.split()[0]) for span in traced.spans)
    assert spans == {(str(one), name): number for one in ids for name, number in (("saga", 1), ("step", 5))}


_request: ContextVar[str] = ContextVar("_request")


class Noting(SpanProcessor):
    """Notes the context variable of each span, on either end."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.seen.append((span.name, _request.get(None)))

    def on_end(self, span: ReadableSpan) -> None:
        self.seen.append((span.name, _request.get(None)))


async def test_processors_see_the_context_variables_of_the_saga(urls: Urls) -> None:
    traced, noting = Traced(urls), Noting()
    traced.provider.add_span_processor(noting)

    async def request(name: str) -> UUID:
        _request.set(name)
        return await traced.run()

    async with traced.program.open():
        await asyncio.gather(request("one"), request("two"))
    assert Counter(noting.seen) == {
        (name, request): 2 for name in {span.name for span in traced.spans} for request in ("one", "two")
    }


class Failing(SpanProcessor):
    """Fails when a span begins, or when it ends."""

    def __init__(self, when: str, name: str, error: type[BaseException]) -> None:
        self._when, self._name, self._error = when, name, error

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._fail("on_start", span)

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("on_end", span)

    def _fail(self, when: str, span: ReadableSpan) -> None:
        if when == self._when and span.name.startswith(self._name):
            raise self._error


@pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError])
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("name", ["saga", "step"])
@pytest.mark.parametrize("when", ["on_start", "on_end"])
async def test_a_processor_that_fails_harms_no_saga(
    files: MigratedUrls, caplog: pytest.LogCaptureFixture, when: str, name: str, *, asked: bool, error: Any
) -> None:
    traced = Traced(files)
    traced.provider.add_span_processor(Failing(when, name, error))

    async def work(db: object, ctx: StepContext) -> None:
        if asked:
            trace.get_current_span().set_attribute("one", 1)

    for step in traced.program.steps:
        traced.program.on(step, work)
    async with traced.program.open():
        saga_id = await traced.run()
        assert (await traced.program.sagas.get(saga_id)).status is Status.COMPLETED
        async with traced.program.handles["orders"].writer() as db:
            handle = await traced.program.sagas.start(traced.program.saga, Order(), tx=db)
        await handle.result(30)
        await traced.left()
    told = {record.getMessage() for record in caplog.records if record.name == "polysaga"}
    assert told == {f"tracing failed with {said(error())}: a span is missing or incomplete"}
    # The others are there: those of steps have no trace without a root.
    assert len(traced.of("saga place-order")) == (0 if (when, name) == ("on_start", "saga") else 2)
    assert sum(span.name.startswith("step") for span in traced.spans) == (0 if when == "on_start" else 10)


class Broken(Sampler):
    """Fails always."""

    def should_sample(self, *given: Any, **more: Any) -> Any:
        raise ConnectionError

    def get_description(self) -> str:
        return "broken"


async def test_a_sampler_that_fails_harms_no_saga(files: MigratedUrls) -> None:
    traced = Traced(files, sampler=Broken())
    async with traced.program.open():
        await traced.run()
    assert traced.spans == []


class Unspeakable(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError


async def test_an_error_that_cannot_be_told_ends_its_span(files: MigratedUrls) -> None:
    traced = Traced(files)
    traced.program.on("record_event", fail_once(Unspeakable))
    async with traced.program.open():
        await traced.run()
    outcomes = [facts(span).get("polysaga.step.outcome") for span in traced.of("step record_event")]
    assert sorted(outcomes, key=str) == [None, "failed"]


class Locked(SpanProcessor):
    """Needs a lock when a span ends, as a log's handler does."""

    def __init__(self) -> None:
        self.lock, self.waits, self.ended = threading.Lock(), threading.Event(), 0

    def on_end(self, span: ReadableSpan) -> None:
        self.waits.set()
        assert self.lock.acquire(timeout=PATIENCE), "the lock is free"
        self.lock.release()
        self.ended += 1


async def test_a_thread_may_ask_for_its_span_with_a_lock_that_a_processor_waits_for(files: MigratedUrls) -> None:
    traced, locked = Traced(files), Locked()
    traced.provider.add_span_processor(locked)
    taken = threading.Event()

    def ask() -> None:
        with locked.lock:
            taken.set()
            assert locked.waits.wait(PATIENCE), "the span of another attempt ends"
            assert trace.get_current_span().get_span_context().is_valid

    async def work(db: object, ctx: StepContext) -> None:
        asked = asyncio.create_task(asyncio.to_thread(ask))
        await within(asyncio.to_thread(taken.wait, PATIENCE), "the thread has the lock")
        locked.waits.clear()
        await within(asked, "the thread knows its span")

    traced.program.on("confirm_order", work)
    async with traced.program.open():
        await traced.run()
    assert locked.ended == 6


async def test_steps_that_start_the_next_saga_keep_no_spans_alive(files: MigratedUrls) -> None:
    traced = Traced(files, CALLS_ONLY)
    program, left = traced.program, 100
    over = asyncio.Event()
    last = list(program.steps)[-1]

    async def start_the_next(db: object, ctx: StepContext) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            await program.sagas.start(program.saga, Order())
        else:
            over.set()

    program.on(last, start_the_next)
    async with program.open():
        await program.sagas.start(program.saga, Order())
        await reached(over, "the last saga runs")
        await traced.left()
        gc.collect()
        assert sum(type(one) is LateSpan for one in gc.get_objects()) < 100  # cancelled timers keep some
    assert len(traced.of(f"step {last}")) == 100


async def test_a_saga_that_hangs_elsewhere_holds_no_spans_back(files: MigratedUrls) -> None:
    traced, other = Traced(files), Program(files, CALLS_ONLY)
    other.tracing = traced.program.tracing
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def hang(db: object, ctx: StepContext) -> None:
        inside.set()
        await reached(go_on, "the test lets the saga go on")

    other.on(next(iter(other.steps)), hang)
    async with traced.program.open(), other.open():
        handle = await other.sagas.start(other.saga, Order())
        await reached(inside, "the other saga hangs")
        saga_id = await traced.run()
        own = [span for span in traced.spans if facts(span)["polysaga.saga.id"] == str(saga_id)]
        assert len(own) == 6
        go_on.set()
        await handle.result(30)


async def test_the_loop_goes_on_between_spans_that_take_long(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_spans, "_SLICE", 0.0)  # each span takes too long
    traced, go_on = Traced(files), asyncio.Event()
    rounds, seen = 0, []

    class Seeing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            seen.append(rounds)

    async def count() -> None:
        nonlocal rounds
        while not go_on.is_set():
            rounds += 1
            await asyncio.sleep(0)

    async def wait(db: object, ctx: StepContext) -> None:
        await reached(go_on, "all earlier spans have ended")

    traced.provider.add_span_processor(Seeing())
    traced.program.on("confirm_order", wait)
    async with traced.program.open():
        running, counting = asyncio.create_task(traced.run()), asyncio.create_task(count())
        await until(lambda: len(seen) == 4, "four spans have ended")
        assert len(set(seen)) == 4
        go_on.set()
        await asyncio.gather(running, counting)


async def test_the_span_of_an_attempt_is_used_as_a_span_of_the_sdk(files: MigratedUrls) -> None:
    traced = Traced(files)

    async def work(db: object, ctx: StepContext) -> None:
        span = trace.get_current_span()
        assert copy.copy(span).get_span_context() == span.get_span_context()
        assert 'name="step open_order"' in repr(span)
        assert not hasattr(span, "no_such_thing")
        with pytest.raises(LookupError), span:
            raise LookupError

    traced.program.on("open_order", work)
    async with traced.program.open():
        await traced.run()
    span = traced.only("step open_order")
    assert [event.name for event in span.events] == ["exception"]
    assert span.status.status_code is StatusCode.ERROR


def test_an_attempt_that_is_thrown_away_without_a_loop_has_a_span() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    birth = Birth(Claim(UUID(int=1), 1, UUID(int=2)), "trip", 1, "f" * 32, None, "{}", "0" * 64, Status.RUNNING)
    step: Any = SimpleNamespace(name="book", database_name=None)

    async def goes_on() -> tuple[None, None]:
        await asyncio.sleep(0)
        return None, None

    work: Any = SagaTracing(Databases(), provider=provider).begin(birth).attempt(goes_on(), step, "step", 1)
    work.send(None)
    work.close()
    (span,) = exporter.get_finished_spans()
    assert (span.name, facts(span)["polysaga.step.outcome"]) == ("step book", "given up")


async def test_every_attempt_has_a_span_and_its_error(urls: Urls) -> None:
    traced = Traced(urls)
    traced.program.on("record_event", fail_once(TimeoutError))
    async with traced.program.open():
        await traced.run()
    first, second = sorted(traced.of("step record_event"), key=lambda span: facts(span)["polysaga.step.attempt"])
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "TimeoutError")
    assert facts(first)["error.type"] == "TimeoutError"
    assert [event.name for event in first.events] == ["exception"]
    assert second.status.status_code is StatusCode.UNSET


async def test_a_refusal_is_an_answer_and_compensations_have_spans(urls: Urls) -> None:
    traced = Traced(urls)
    traced.program.on("confirm_order", refuse)
    async with traced.program.open():
        with pytest.raises(Refused):
            await traced.run()
    refused = traced.only("step confirm_order")
    assert (refused.status.status_code, facts(refused)["polysaga.step.outcome"]) == (StatusCode.UNSET, "refused")
    undone = Counter(span.name for span in traced.spans if span.name.startswith("undo "))
    assert undone >= Counter(["undo open_order", "undo reserve_stock", "undo credit_points"])
    assert facts(traced.only("drive place-order"))["polysaga.saga.status"] == "compensated"


async def test_a_parked_saga_ends_its_drive_with_an_error(urls: Urls) -> None:
    traced = Traced(urls)
    traced.program.on("confirm_order", refuse)
    traced.program.on("undo:credit_points", fail)
    async with traced.program.open():
        with pytest.raises(NeedsAttention):
            await traced.run()
    drive = traced.only("drive place-order")
    assert drive.status.status_code is StatusCode.ERROR
    assert "TimeoutError" in (drive.status.description or "")


async def test_values_of_users_stay_out_of_spans(urls: Urls) -> None:
    traced, address = Traced(urls), "@".join(["a", "b.c"])  # a traceback shows the lines of the program

    async def misread(db: AsyncSession | MongoSession, ctx: StepContext) -> None:
        Order.model_validate({"item": {"address": address}})

    traced.program.on("credit_points", misread)
    async with traced.program.open():
        with pytest.raises(Exception, match="was undone"):
            await traced.run()
    failed = traced.only("step credit_points")
    assert facts(failed)["error.type"] == "ValidationError"
    assert address not in failed.to_json()


async def test_a_takeover_goes_on_in_the_same_trace(urls: Urls) -> None:
    first, second = Traced(urls), Traced(urls)
    inside = asyncio.Event()

    async def hang(db: object, ctx: StepContext) -> None:
        inside.set()
        await forever()

    first.program.on("confirm_order", hang)
    async with first.program.open(lease=600.0), second.program.open(lease=600.0):
        handle = await first.program.sagas.start(first.program.saga, Order())
        await reached(inside, "the step runs")
        row = await first.program.runner.engine.journal.load(handle.id)
        assert row is not None
        await first.program.runner.engine.journal.hand_back([row.claim])
        second.program.runner.due.set()
        await second.program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == handle.id)
        await second.left()
        drive = second.only("drive place-order")
    root = first.only("saga place-order")
    confirmed = second.only("step confirm_order")
    assert (confirmed.context.trace_id, facts(confirmed)["polysaga.saga.epoch"]) == (root.context.trace_id, 2)
    assert confirmed.parent is not None
    assert confirmed.parent.span_id == root.context.span_id
    assert second.of("saga place-order") == []
    assert facts(drive)["polysaga.saga.status"] == "completed"
    assert drive.start_time is not None
    assert confirmed.start_time is not None
    assert drive.start_time <= confirmed.start_time


async def test_a_saga_started_in_a_transaction_is_traced_from_there(urls: Urls) -> None:
    traced = Traced(urls)
    program = traced.program
    async with program.open():
        with traced.provider.get_tracer("http").start_as_current_span("POST /orders") as request:
            async with program.handles["orders"].writer() as db:
                assert isinstance(db, AsyncSession)
                await db.connection()
                handle = await program.sagas.start(program.saga, Order(), tx=db)
        await program.recorder.wait_for(SagaClaimed)
        await handle.result(30)
        await traced.left()
    root = traced.only("saga place-order")
    assert [link.context.span_id for link in root.links] == [request.get_span_context().span_id]
    assert traced.only("step open_order").context.trace_id == root.context.trace_id


async def test_a_start_that_joins_says_so(urls: Urls) -> None:
    first, second = Traced(urls), Traced(urls)
    async with first.program.open(), second.program.open():
        one = await first.program.sagas.start(first.program.saga, Order(), key="k-1")
        await one.result(30)
        again = await second.program.sagas.start(second.program.saga, Order(), key="k-1")
        await again.result(30)
        await until(lambda: bool(second.of("saga place-order")), "the start has ended")
    assert facts(second.only("saga place-order"))["polysaga.saga.joined"] is True
    assert facts(first.only("saga place-order"))["polysaga.saga.key"] == "k-1"


async def test_keys_can_be_left_out(urls: Urls) -> None:
    traced = Traced(urls)
    traced.program.tracing = SagaTracing(traced.program.databases, provider=traced.provider, keys=False)
    async with traced.program.open():
        await (await traced.program.sagas.start(traced.program.saga, Order(), key="a@b.c")).result(30)
    assert traced.only("saga place-order")
    assert "a@b.c" not in "".join(span.to_json() for span in traced.spans)


async def test_without_a_provider_nothing_is_recorded_and_sagas_run(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    program.tracing = SagaTracing(program.databases)
    assert not isinstance(trace.get_tracer_provider(), TracerProvider), "a test has set a provider for the process"
    async with program.open():
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        row = await program.runner.engine.journal.load(handle.id)
        assert row is not None
        assert row.trace is None


async def test_what_the_provider_does_not_sample_stays_unsampled(urls: Urls) -> None:
    traced = Traced(urls, sampler=ParentBased(ALWAYS_OFF))

    async def work(db: object, ctx: StepContext) -> None:
        with traced.provider.get_tracer("user").start_as_current_span("inside"):
            pass

    traced.program.on("open_order", work)
    async with traced.program.open():
        handle = await traced.program.sagas.start(traced.program.saga, Order())
        await handle.result(30)
        row = await traced.program.runner.engine.journal.load(handle.id)
        assert row is not None
        assert row.trace is not None
        assert int(row.trace.rpartition("-")[2], 16) & 1 == 0  # the next owner samples no more than this one
    assert traced.spans == []


async def test_a_trace_survives_kill_9(urls: Urls, tmp_path: Path) -> None:
    exported = tmp_path / "spans.jsonl"
    command = [sys.executable, "-m", "tests.integration.traced_process", json.dumps(dict(urls)), str(exported)]
    with begin(command) as process:
        saga_id = UUID((await asyncio.to_thread(next_line, process, "the saga is inside its step")).strip())
        process.kill()
    before = [json.loads(line) for line in exported.read_text().splitlines()]
    (root,) = [span for span in before if span["name"] == "saga place-order"]
    traced = Traced(urls)
    async with traced.program.open(lease=1.0):
        await traced.program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == saga_id)
        await traced.left()
    after = traced.spans
    trace_id = root["context"]["trace_id"]
    assert {span["context"]["trace_id"] for span in before} == {trace_id}
    assert {f"0x{span.context.trace_id:032x}" for span in after} == {trace_id}
    assert {span["name"] for span in before} == {
        "saga place-order",
        "step open_order",
        "step reserve_stock",
        "step credit_points",
    }
    assert {span.name for span in after} == {"step confirm_order", "step record_event", "drive place-order"}
    for span in after:
        assert span.parent is not None
        assert f"0x{span.parent.span_id:016x}" == root["context"]["span_id"]
        assert facts(span)["polysaga.saga.epoch"] == 2

"""Every event becomes one log line: readable, bounded, and without secrets."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from polysaga import events
from polysaga.events import (
    DatabaseOpened,
    Event,
    Events,
    PrimaryChanged,
    PrimaryLost,
    SagaDecided,
    SagaFinished,
    SagaNotKnown,
    SagaParked,
    StartParked,
    StepDone,
    StepFailed,
    SubscriberFailed,
    WorkerFailed,
    WorkerTicked,
)
from polysaga.telemetry import LogSubscriber, logs

SAGA_ID = UUID("01a2b3c4-0000-7000-8000-000000000000")
_VALUES: dict[Any, Any] = {
    int: 3,
    float: 0.25,
    bool: True,
    str: "text",
    str | None: "text",
    UUID: SAGA_ID,
    tuple[str, ...]: ("first", "second"),
}


def _kinds(of: type[Event] = Event) -> Iterator[type[Event]]:
    """The events of the vocabulary that can happen, and not those that only group others."""
    for kind in of.__subclasses__():
        # A dataclass with slots leaves the class it was made from behind, under the same name.
        if getattr(events, kind.__name__, None) is kind:
            below = list(_kinds(kind))
            yield from below or [kind]


def _example(kind: type[Event]) -> Event:
    return kind(**{field.name: _VALUES[field.type] for field in dataclasses.fields(kind)})


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="polysaga")
    return caplog


def _only(log: pytest.LogCaptureFixture) -> logging.LogRecord:
    (record,) = log.records
    return record


@pytest.mark.parametrize("kind", sorted(_kinds(), key=repr))
def test_every_event_has_a_sentence_of_its_own_and_becomes_one_record(
    kind: type[Event], log: pytest.LogCaptureFixture
) -> None:
    event = _example(kind)
    LogSubscriber()(event)

    record = _only(log)
    assert kind in logs.line.registry
    assert record.name == "polysaga"
    assert record.getMessage()
    for name, fact in logs.fields(event).items():
        assert getattr(record, name) == fact


@pytest.mark.parametrize("kind", sorted(_kinds(), key=repr))
def test_no_line_ends_where_a_text_is_missing(kind: type[Event], log: pytest.LogCaptureFixture) -> None:
    empty = {str: "", str | None: None, tuple[str, ...]: ()}
    values = {field.name: {**_VALUES, **empty}[field.type] for field in dataclasses.fields(kind)}
    # Names are never empty; a reason may be that of an error without a text.
    named = {"database", "node", "saga", "step", "status", "what", "action", "subscriber"}
    LogSubscriber()(kind(**{name: "orders" if name in named else value for name, value in values.items()}))
    said = _only(log).getMessage()
    assert said
    assert not said.endswith((":", ": ", "at ")), said
    assert ": ;" not in said


@pytest.mark.parametrize(
    ("event", "remedy"),
    [
        (SagaParked(SAGA_ID, "place-order", "x" * 2_000), "polysaga sagas retry"),
        (StartParked(SAGA_ID, "place-order", "points", "x" * 2_000), "polysaga verify"),
        (PrimaryLost("orders"), "promote a server"),
        (SagaNotKnown(SAGA_ID, "place-order", 2), "keep a process running"),
    ],
)
def test_a_line_that_needs_a_person_says_what_to_do(
    event: Event, remedy: str, log: pytest.LogCaptureFixture
) -> None:
    LogSubscriber()(event)
    assert remedy in _only(log).getMessage()


def test_the_walk_over_the_events_finds_them() -> None:
    assert {SagaFinished, StepDone, WorkerTicked, SubscriberFailed} <= set(_kinds())


@pytest.mark.parametrize(
    ("event", "level", "sentence"),
    [
        (
            SagaFinished(SAGA_ID, "place-order", "compensated", 0.0412),
            logging.INFO,
            f"saga place-order {SAGA_ID} compensated in 0.041 s",
        ),
        (
            SagaDecided(SAGA_ID, "place-order", "compensating", "out of stock"),
            logging.INFO,
            f"saga place-order {SAGA_ID} is being undone: out of stock",
        ),
        (
            SagaParked(SAGA_ID, "place-order", "no way back"),
            logging.ERROR,
            f"saga place-order {SAGA_ID} is parked and needs a person ({logs._REPAIR}): no way back",
        ),
        (
            StepDone(SAGA_ID, "place-order", "reserve_stock", "inventory", 2, 12.345, found=False),
            logging.DEBUG,
            f"saga place-order {SAGA_ID}: step reserve_stock on inventory done in 12.3 s, attempt 2",
        ),
        (
            StepFailed(SAGA_ID, "place-order", "reserve_stock", "inventory", 1, "refused", "out of stock"),
            logging.INFO,
            f"saga place-order {SAGA_ID}: step reserve_stock on inventory refused: out of stock",
        ),
        (
            StepFailed(SAGA_ID, "place-order", "reserve_stock", None, 1, "deadlock", "try again"),
            logging.WARNING,
            f"saga place-order {SAGA_ID}: step reserve_stock failed, attempt 1 (deadlock): try again",
        ),
        (
            StepFailed(SAGA_ID, "trip", "book_hotel", "hotels", 5, "error", "no such row", "undo"),
            logging.WARNING,
            f"saga trip {SAGA_ID}: step book_hotel on hotels could not be undone, attempt 5 (error): no such row",
        ),
        (PrimaryChanged("orders", "a:1", 1), logging.INFO, "database orders has its primary at a:1"),
        (
            PrimaryChanged("orders", "a:1", 1, "a:1"),
            logging.WARNING,
            "database orders has its primary at a:1 again",
        ),
        (
            PrimaryChanged("orders", "b:1", 2, "a:1"),
            logging.WARNING,
            "database orders has its primary at b:1 instead of a:1 (epoch 2)",
        ),
        (WorkerTicked(1, 2, 3), logging.DEBUG, "worker: 1 renewed, 2 taken over, 3 in flight"),
    ],
)
def test_a_sentence_says_what_happened_at_the_level_it_deserves(
    event: Event, level: int, sentence: str, log: pytest.LogCaptureFixture
) -> None:
    LogSubscriber()(event)
    assert (_only(log).levelno, _only(log).getMessage()) == (level, sentence)


def test_the_facts_are_fields_for_machines(log: pytest.LogCaptureFixture) -> None:
    LogSubscriber()(SagaFinished(SAGA_ID, "place-order", "completed", 0.5))
    facts = {name: vars(_only(log))[name] for name in ("event", "saga_id", "saga", "status", "seconds")}
    assert facts == {
        "event": "saga-finished",
        "saga_id": str(SAGA_ID),
        "saga": "place-order",
        "status": "completed",
        "seconds": 0.5,
    }


def test_a_password_never_reaches_the_log(log: pytest.LogCaptureFixture) -> None:
    url = "postgresql+asyncpg://app:s3cret@primary/orders"
    subscriber = LogSubscriber()
    subscriber(WorkerFailed(f"cannot connect to {url}"))
    subscriber(DatabaseOpened("orders", (url, f"{url}?password=s3cret")))
    # The cut falls into the password.
    subscriber(WorkerFailed("x" * 480 + " " + url + "y" * 20_000))

    assert len(log.records) == 3
    assert "s3c" not in "".join(str(vars(record)) for record in log.records)


def test_what_others_say_is_one_line_and_bounded(log: pytest.LogCaptureFixture) -> None:
    subscriber = LogSubscriber()
    subscriber(WorkerFailed("first\nsecond\x1b[31m" + "long " * 1_000))
    subscriber(DatabaseOpened("orders", tuple(f"node-{number}" for number in range(1_000))))

    failed, opened = log.records
    for text in (failed.getMessage(), vars(failed)["reason"], opened.getMessage()):
        assert len(text) <= 500
        assert text.isprintable()
    assert len(vars(opened)["nodes"]) <= 20


def test_an_event_nobody_wrote_a_sentence_for_lists_its_facts(log: pytest.LogCaptureFixture) -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class CacheWarmed(Event):
        name: str  # a name that a log record needs for itself
        entries: int

    LogSubscriber()(CacheWarmed("prices", 7))
    record = _only(log)
    assert record.getMessage() == "cache-warmed name_=prices entries=7"
    assert (record.name, vars(record)["name_"]) == ("polysaga", "prices")


def test_nothing_is_written_below_the_level_the_program_chose(log: pytest.LogCaptureFixture) -> None:
    log.set_level(logging.INFO, logger="polysaga")
    LogSubscriber()(WorkerTicked(0, 0, 0))
    assert log.records == []


def test_a_logger_of_ones_own_is_used(log: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("shop.sagas")
    log.set_level(logging.DEBUG, logger=logger.name)
    Events(LogSubscriber(logger))(WorkerTicked(0, 0, 0))
    assert _only(log).name == "shop.sagas"

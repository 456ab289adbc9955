"""Announcing: every subscriber hears every event, and a broken one harms no other."""

import dataclasses
import inspect
from uuid import uuid4

import pytest

from polysaga import events
from polysaga.events import Event, Events, SagaClaimed, SubscriberFailed, WorkerFailed, ignore

EVENT = WorkerFailed("no journal")


def test_every_subscriber_hears_every_event_in_order() -> None:
    first: list[Event] = []
    second: list[Event] = []
    announce = Events(first.append)
    announce.subscribe(second.append)
    claimed = SagaClaimed(uuid4(), "place-order", 2)
    announce(EVENT)
    announce(claimed)
    assert first == second == [EVENT, claimed]


def test_a_broken_subscriber_harms_nobody_and_is_announced() -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("full disk")

    def half_broken(event: Event) -> None:
        if not isinstance(event, SubscriberFailed):
            raise KeyError("half")

    Events(broken, heard.append, half_broken)(EVENT)
    assert EVENT in heard
    failed = [event for event in heard if isinstance(event, SubscriberFailed)]
    assert failed == [
        SubscriberFailed("broken", "ValueError('full disk')"),
        SubscriberFailed("half_broken", "KeyError('half')"),
    ]


def test_a_subscriber_that_always_fails_does_not_fail_for_ever() -> None:
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise ValueError

    Events(broken)(EVENT)
    assert [type(event) for event in calls] == [WorkerFailed, SubscriberFailed]


def test_a_subscriber_without_a_name_is_announced_by_its_repr() -> None:
    class Listener:
        def __call__(self, event: Event) -> None:
            raise ValueError

        def __repr__(self) -> str:
            return "<listener>"

    heard: list[Event] = []
    Events(Listener(), heard.append)(EVENT)
    assert SubscriberFailed("<listener>", "ValueError()") in heard


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_subscriber_cannot_swallow_the_end_of_the_process(stop: type[BaseException]) -> None:
    def stopping(event: Event) -> None:
        raise stop

    with pytest.raises(stop):
        Events(stopping)(EVENT)


def test_to_announce_to_nobody_is_fine() -> None:
    Events()(EVENT)
    ignore(EVENT)
    assert Events()._subscribers == []


def test_every_event_is_a_frozen_fact_with_a_docstring() -> None:
    kinds = [kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, Event)]
    assert len(kinds) > 10
    for kind in kinds:
        assert kind.__doc__
        assert not kind.__doc__.startswith(f"{kind.__name__}(")
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert "__slots__" in vars(kind)


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENT.reason = "other"  # type: ignore[misc]

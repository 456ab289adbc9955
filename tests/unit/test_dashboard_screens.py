"""What pages show of databases, numbers, times, payloads and drawings: pure functions of plain facts."""

import json
import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from markupsafe import escape
from pydantic import BaseModel, SecretStr, TypeAdapter

from polysaga.clock import Clock
from polysaga.dashboard import filters, words
from polysaga.dashboard.drawing import charts
from polysaga.dashboard.drawing.timeline import Axis, Bar, Juncture, Track, gantt
from polysaga.dashboard.masking import Mask, secret_names, shown, without
from polysaga.dashboard.recent import Recent
from polysaga.dashboard.screens import audit as audits
from polysaga.dashboard.screens.declared import DeclaredStep
from polysaga.dashboard.screens.history import timeline
from polysaga.dashboard.screens.hosts import host
from polysaga.dashboard.screens.listing import comes_next
from polysaga.dashboard.screens.nodes import (
    DatabaseFacts,
    NodeFacts,
    PoolFacts,
    databases_screen,
    outages,
    strip,
    trouble,
)
from polysaga.dashboard.screens.repairs import confirm_screen
from polysaga.dashboard.site import environment
from polysaga.events import NodeLeft, PrimaryChanged, PrimaryLost, SagaParked, StepDone, StepFailed, WorkerTicked
from polysaga.sagas import Attempt, Examination, Parking, Reason, SagaState, SagaSummary, Status, Tenure
from polysaga.sagas.definition.identity import id_from_time
from polysaga.sagas.journal.figures import ParkedRow
from polysaga.sagas.operations.causes import causes

NOW = datetime(2026, 11, 23, 14, 32, 7, tzinfo=UTC)
PRIMARY = NodeFacts(
    url="postgresql+asyncpg://app@pg-1.internal:5432/orders",
    role="primary",
    label="primary",
    failure=None,
    asked_ago=0.1,
    lag=None,
    latency=0.0008,
    zone="a",
    position="4/7A3F2C18",
    pool=PoolFacts(used=12, size=10, more=10, waiting=2),
    breaker="closed",
    history=None,
)
REPLICA = replace(
    PRIMARY,
    url="postgresql+asyncpg://app@pg-2.internal:5432/orders",
    role="replica",
    label="replica-1",
    lag=0.038,
    history=(0.04, None, 0.03),
)
ORDERS = DatabaseFacts(
    name="orders",
    engine="PostgreSQL",
    journal=True,
    replicated=True,
    consistency="session",
    max_lag=2.0,
    wait=0.03,
    nodes=(PRIMARY, REPLICA),
    routed={(REPLICA.url, "fresh"): 150, (PRIMARY.url, "no-replica"): 50},
    waits=(4, 0.04),
)


def test_healthy_databases_are_no_trouble() -> None:
    assert trouble([ORDERS]) == []
    assert databases_screen([ORDERS], [], NOW).headline.startswith("All databases answer")


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ((replace(PRIMARY, role="unknown", label="replica-0", failure="gone"), REPLICA), "no node takes writes"),
        ((PRIMARY, replace(REPLICA, lag=2.6)), "no replica is fit, so reads go to the primary"),
        ((PRIMARY, REPLICA, replace(REPLICA, lag=2.6)), "1 replica is not read from"),
        ((PRIMARY, REPLICA, replace(REPLICA, failure="no answer within 0.8 s")), "1 replica is not read from"),
    ],
)
def test_each_trouble_of_a_database_has_its_sentence(nodes: tuple[NodeFacts, ...], told: str) -> None:
    found = replace(ORDERS, nodes=nodes)
    assert trouble([found]) == [f"orders: {told}."]
    assert outages([found]) == ([f"orders: {told}."] if told == "no node takes writes" else [])


def test_a_database_that_does_not_answer_is_an_outage() -> None:
    silent = replace(ORDERS, replicated=False, nodes=(PRIMARY,), refusal="it does not answer")
    assert trouble([silent]) == outages([silent]) == ["orders does not answer."]
    since = {"orders": NOW, "points": NOW}
    assert trouble([silent], since) == outages([silent], since) == ["orders does not answer, since 14:32:07."]


def test_the_page_of_databases_says_where_reads_went_and_why() -> None:
    (part,) = databases_screen([ORDERS], [], NOW).parts
    assert part.reads_text.startswith("200 reads. 25.0 % went to the primary for want of a replica.")
    assert "4 readers waited, 10.0 ms each." in part.reads_text
    assert [(one.word, one.number, one.share) for one in part.reasons] == [
        ("fresh", "150", "75.0 %"),
        ("no-replica", "50", "25.0 %"),
    ]
    primary, replica = part.servers
    assert primary.pool_text == "10 of 10 in use, 2 beyond, 2 wait"
    assert replica.lag_text == "38.0 ms behind"
    assert 'class="f-gap"' in str(replica.lag)  # no answer is shaded, not drawn as zero
    assert strip([ORDERS])[0].nodes[1].text == "pg-2.internal:5432 38.0 ms behind"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0023, "2.3 ms"),
        (0.804, "804 ms"),
        (5, "5.0 s"),
        (298, "4 min 58 s"),
        (7500, "2 h 5 min"),
        (3 * 86400, "3 days"),
    ],
)
def test_lengths_of_time_have_their_units(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_moments_say_the_day_if_it_is_not_today() -> None:
    assert words.at(NOW - timedelta(hours=1), NOW) == "13:32:07"
    assert words.at(NOW - timedelta(hours=20), NOW) == "Yesterday 18:32:07"
    assert words.at(NOW - timedelta(days=400), NOW) == "19 Oct 2025 14:32:07"
    assert words.ahead(NOW + timedelta(seconds=18), NOW) == "at 14:32:25, in 18 s"
    assert words.ahead(NOW - timedelta(seconds=1), NOW) == "now"


def test_a_search_comes_back_from_its_own_address() -> None:
    search = filters.read(
        "status=running&status=completing&name=place-order&step=a&database=b&key=k%26&error=x%3Dy&since=1h"
        "&until=2026-11-23T14:32&retrying=1&late=1&waiting=1&crashing=1&known=0&after=2026-11-23T14:20:25%2B00:00~"
        "019ab3e1-0d3d-7a51-8c1e-7a2f4b90d3c6"
    )
    assert search.problems == ()
    assert search.status == (Status.RUNNING, Status.COMPLETING)
    assert filters.read(search.query()) == search
    assert search.selects(NOW).since == NOW - timedelta(hours=1)


MANY = "&".join(f"a{number}=1" for number in range(201))
CURSOR_OUT_OF_TIME = f"0001-01-01T00:00:00%2B23:00~{UUID(int=1)}"


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("error=" + "x" * 301, "'error' has more than 300 characters"),
        ("error=a%00b", "'error' has the character NUL"),
        ("since=garbage", "'since' is no time like"),
        ("until=9999-12-31T23:59:59-23:00", "'until' is no time like"),
        ("stattus=running", "There is no filter 'stattus'"),
        ("status=runing", "There is no status 'runing'"),
        ("name=a&name=b", "'name' is given more than once"),
        ("late=maybe", "'late' is 1 or 0"),
        ("known=2", "'known' is 1 or 0"),
        (f"after={CURSOR_OUT_OF_TIME}", "The page asked for is not one of this list"),
        (MANY, "more than 200 parameters"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(query: str, told: str) -> None:
    search = filters.read(query)
    (problem,) = search.problems
    assert told in problem
    assert replace(search, name=None, problems=()) == filters.Search()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("by=" + "x" * 301, "'by' has more than 300 characters"),
        ("action=retri", "'action' is retry, skip, compensate or resolve"),
        ("since=1h", "'since' is 24h, 7d or 30d"),
        ("batch=1", "'batch' is the id"),
        ("key=k-1", "There is no filter 'key'"),
        ("after=zz", "The page asked for is not one of this list"),
        (MANY, "more than 200 parameters"),
    ],
)
def test_a_parameter_of_the_audit_trail_that_cannot_be_used_is_named(query: str, told: str) -> None:
    search = audits.read(query)
    (problem,) = search.problems
    assert told in problem
    assert replace(search, problems=()) == audits.AuditSearch()


def test_what_is_about_the_page_and_what_a_form_sends_empty_is_no_problem() -> None:
    assert filters.read("name=&late=0&live=off&done=retry&shown=1,2") == filters.Search()
    assert audits.read("by=&saga=&live=off&format=csv") == audits.AuditSearch()


@pytest.mark.parametrize("message", ["x" * 400, "no 12 " + "y" * 280, "\U0001f600" * 400, "a\0" + "z" * 290])
def test_the_link_of_a_cause_is_read_as_it_was_made(message: str) -> None:
    parking = Parking(status=Status.COMPENSATING, kind="Trouble", message=message, step="reserve_stock", at=NOW)
    reason = Reason(kind="Refused", message="", step=None, parked=parking)
    (cause,) = causes([ParkedRow(UUID(int=1), "place-order", "f", 1, reason)], lambda fingerprint, step: None)
    search = filters.Search(name=cause.name, step=cause.step, error=cause.error)
    assert filters.read(search.query()) == search
    assert cause.error in message


class Person(BaseModel):
    name: str
    card: SecretStr
    cards: list[SecretStr]
    spare: SecretStr | None = None


def test_secret_fields_are_masked_by_their_type() -> None:
    names = secret_names([TypeAdapter(list[Person]), TypeAdapter(int)])
    assert names == {"card", "cards", "spare"}


def test_masked_values_are_replaced_at_every_depth() -> None:
    mask, data = Mask({"user"}), {"a": [{"user": {"id": "u-17850"}}], "user": 17850, "kept": True}
    assert mask.data(data) == {"a": [{"user": "masked"}], "user": "masked", "kept": True}
    text, more = shown(data, mask)
    assert "17850" not in text
    assert more == 0
    assert text.count("masked</span>") == 2
    values = mask.values(json.dumps(data))
    assert without("u-17850 has no account 17850", values) == "masked has no account masked"


def test_a_long_payload_is_folded_after_twenty_lines() -> None:
    text, more = shown(list(range(40)), Mask(()))
    assert (text.count("\n") + 1, more) == (20, 22)
    assert shown(list(range(40)), Mask(()), whole=True)[1] == 0


@pytest.mark.parametrize("value", ["\ud800", "<b>", "\u2028", "a\x00b", {"<i>": ["</pre>"]}])
def test_hostile_payloads_are_escaped_and_can_be_sent(value: object) -> None:
    text, _ = shown(value, Mask(()))
    text.encode()
    assert "<" not in text


def test_only_the_signs_of_a_payload_that_cannot_be_seen_are_escaped() -> None:
    text, _ = shown("数据库 👩\u200d🚀 مفتاح \u202eabc", Mask(()))
    assert text == escape('"数据库 👩\\u200d🚀 مفتاح \\u202eabc"')


def test_time_is_stretched_so_that_short_gaps_are_seen() -> None:
    axis = Axis([0, 3, 300_000], 300_000)
    assert axis.x(0) == 0
    assert 5 < axis.x(3) < 50
    assert round(axis.x(300_000)) == 100


def test_no_template_is_compiled_for_the_first_viewer_of_a_page() -> None:
    templates = environment()
    assert templates.cache is not None
    assert {name for _, name in templates.cache} == set(templates.list_templates())


def test_words_on_the_axis_of_time_do_not_cover_each_other() -> None:
    wanted = [
        (0.0, "0"),
        (300_000.0, "5 min"),
        (200_000.0, "3 min 20 s"),
        (199_999.0, "3 min 19 s"),
        (3.0, "3.0 ms"),
    ]
    axis = Axis([t for t, _ in wanted], 300_000)
    shown = axis.ticks(wanted)
    assert [t for t, _ in shown] == [0.0, 3.0, 200_000.0, 300_000.0]
    near = [(0.0, "0"), (1.0, "1.0 ms"), (2.0, "2.0 ms")]
    assert len(Axis([0, 1, 2, *range(100_000, 200_000, 10_000)], 200_000).ticks(near)) == 1


def test_flags_that_would_cover_each_other_stand_below_each_other() -> None:
    def heights(*lines: Juncture) -> list[int]:
        bars = [Bar(t, t, "own") for t in range(0, 99, 5)]
        drawing = str(gantt(Track("owner", "", bars), [], lines, [(0.0, "0")], 100.0, "said"))
        return [int(y) for y in re.findall(r'class="g-flag"[^>]* y="(\d+)"', drawing)]

    decided, now = Juncture(99.0, "d-forward", "decided: goes forward"), Juncture(100.0, "d-now", "now 12:00:00")
    assert heights(decided, now) == [15, 29]
    assert heights(Juncture(1.0, "d-forward", "decided"), now) == [15, 15]


def test_an_outage_that_only_steps_noticed_is_two_lines_with_its_length() -> None:
    clock = _At()
    recent = Recent(clock)
    saga = UUID(int=1)
    recent(StepDone(saga, "place-order", "award", "points", 1, 0.1, found=False))
    for attempt in range(3):
        recent(StepFailed(saga, "place-order", "award", "points", attempt, "unreachable", "refused"))
        clock.moment += timedelta(seconds=10)
    assert (dict(recent.out_of_reach), recent.absences()) == ({"points": NOW}, [])
    recent(StepFailed(saga, "place-order", "place", "orders", 1, "deadlock", "try again"))
    for _ in range(2):
        recent(StepDone(saga, "place-order", "award", "points", 4, 0.1, found=False))
    back, lost = recent.lines
    assert (back.told, back.database, back.kind) == ("points: steps reach it again, after 30.0 s", "points", "ok")
    assert lost.told.startswith("points: 3 attempts of steps could not reach it (since ")
    assert back.at - lost.first == timedelta(seconds=30)
    assert [one.told for one in recent.absences()] == ["points was out of reach from 14:32:07 for 30.0 s."]
    clock.moment += timedelta(hours=2)
    assert (dict(recent.out_of_reach), recent.absences()) == ({}, [])


def test_a_retry_of_sagas_that_end_their_processes_is_warned_of() -> None:
    def asked(action: str, *kinds: str, step: str | None = "place") -> tuple[str, ...]:
        found = [_parked(kind, step) for kind in kinds]
        ids = [one.id for one in found]
        screen = confirm_screen(action, ids, [], complete=True, now=NOW, found=found, mask=Mask(()))
        return screen.warnings

    (warning,) = asked("retry", "deserted", "deserted", "failed")
    assert warning.startswith("2 of them are parked because their processes ended or hung, one after the other.")
    assert asked("compensate", "deserted") == asked("retry", "failed") == ()
    assert asked("retry", "deserted", step=None) == (), "with every step done another saga was the cause"
    assert asked("retry", "deserted")[0].startswith("It is parked")


def test_a_list_says_for_how_long_a_failing_step_is_retried() -> None:
    step = DeclaredStep(
        name="place",
        kind="compensatable",
        database="orders",
        after=(),
        does="",
        undo="remove",
        undoes="",
        within=20.0,
        undo_within=None,
    )
    moving = replace(_parked("failed", None), status=Status.RUNNING, owner=UUID(int=1), error=None)
    retried = replace(moving, retried="place")
    assert comes_next(moving, NOW, 10.0, step) == ("goes on until it is decided", "")
    assert comes_next(retried, NOW, 10.0, step) == ("undone if that fails for 20 s", "")
    assert comes_next(retried, NOW, 10.0, replace(step, within=None))[0] == "goes on until it is decided"
    undone = replace(retried, status=Status.COMPENSATING)
    assert comes_next(undone, NOW, 10.0, step)[1] == "parked for a person if that keeps failing"
    assert comes_next(undone, NOW, 10.0, replace(step, undo_within=90.0))[1] == "parked if that fails for 1 min"


def _drawn(saga: SagaState, *, at: datetime) -> str:
    found = Examination(
        saga=saga,
        at=at,
        late=False,
        steps=(),
        looks=(),
        contradictions=(),
        moves=(),
        options=(),
        alike=0,
        removed_at=None,
    )
    drawing, _ = timeline(found, {})
    return str(drawing)


def _state(**given: Any) -> SagaState:
    known = {one.name: getattr(_parked("failed", "place"), one.name) for one in fields(SagaSummary)}
    more = {"driven_here": False, "input": "{}", "results": {}, "history": (), "owners": (), "audit": ()}
    return SagaState(**{**known, **more, **given})


def test_claims_of_which_nothing_is_known_are_not_drawn_as_those_of_the_one_before() -> None:
    history = (Attempt(step="place", phase="do", attempt=1, at_ms=0.0, ms=5.0, outcome="done"),)
    owners = (Tenure(1, 0.0, "web-1:7"), Tenure(12, 60_000.0, "web-1:99"))
    lost = _state(history=history, owners=owners, epoch=12)
    assert "claims 2 to 11: their processes ended, or hung, and have written nothing" in _drawn(lost, at=NOW)
    repaired = _state(history=history, owners=(owners[0], Tenure(3, 60_000.0, "web-1:99")), epoch=3)
    assert "have written nothing" not in _drawn(repaired, at=NOW), "the second claim was a person's"


def test_a_claim_is_drawn_until_it_ran_out() -> None:
    driven = {
        "status": Status.RUNNING,
        "owner": UUID(int=1),
        "error": None,
        "owners": (Tenure(3, 0.0, "web-1:7"),),
    }
    over = _state(**driven, wake_at=NOW + timedelta(seconds=10))
    assert "its claim has run out: no process drives it" in _drawn(over, at=NOW + timedelta(seconds=30))
    assert "its claim has run out" not in _drawn(over, at=NOW + timedelta(seconds=5))


def _parked(kind: str, step: str | None) -> SagaSummary:
    reason = Reason(parked=Parking(status=Status.RUNNING, at=NOW, kind=kind, step=step, message="it failed"))
    return SagaSummary(
        id=id_from_time(NOW),
        name="place-order",
        version=1,
        key=None,
        status=Status.NEEDS_ATTENTION,
        known=True,
        error=reason,
        epoch=3,
        owner=None,
        wake_at=None,
        deadline=None,
        expiries=0,
        created_at=NOW,
        finished_at=None,
        retried=None,
    )


@pytest.mark.parametrize("values", [[], [None], [1.0], [None, 2.0, None], [0.0, 0.0]])
def test_charts_are_drawn_from_few_values_too(values: list[float | None]) -> None:
    for drawing in (
        charts.spark(values, "x"),
        charts.lines(values, values, "x", 1.0),
        charts.lag(values, 2.0, "x"),
    ):
        assert str(drawing).startswith("<svg")
    assert "nan" not in str(charts.bars([(0, 0, 0)], "x"))
    assert str(charts.pool(0, 0, 0)).startswith("<svg")
    assert str(charts.pool(90, 60, 60)).count("<rect") == 2  # too many for cells


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql+asyncpg://app@pg-1.internal:5432/orders", "pg-1.internal:5432"),
        ("sqlite+aiosqlite:////tmp/orders.db", "orders.db"),
        ("mongodb://a@one:27017,two:27018/inventory", "one:27017,two:27018"),
    ],
)
def test_nodes_are_named_by_their_hosts(url: str, name: str) -> None:
    assert host(url) == name


class _At(Clock):
    moment = NOW

    def now(self) -> datetime:
        return self.moment


def test_equal_events_within_five_minutes_are_one_line() -> None:
    clock = _At()
    recent = Recent(clock)
    for _ in range(3):
        recent(SagaParked(id_from_time(NOW), "place-order", "no shelf"))
        clock.moment += timedelta(minutes=1)
    recent(WorkerTicked(0, 0, 0))
    (line,) = recent.lines
    assert line.told == "3 place-order sagas parked: no shelf (since 14:32:07)"
    clock.moment += timedelta(minutes=10)
    recent(SagaParked(id_from_time(NOW), "place-order", "no shelf"))
    assert len(recent.lines) == 2


def test_events_of_databases_have_their_sentences() -> None:
    recent = Recent(_At())
    recent(PrimaryLost("points"))
    recent(NodeLeft("points", "mysql://app@maria-1:3306/points", "no answer at mysql://app:secret@maria-1"))
    recent(PrimaryChanged("points", "mysql://app@maria-2:3306/points", 0, "mysql://app@maria-1:3306/points"))
    texts = [line.told for line in recent.lines]
    assert texts[0] == "points: maria-2:3306 takes the writes now"
    assert "secret" not in texts[1]
    assert "no node takes writes" in texts[2]

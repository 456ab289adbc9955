"""Pages that keep themselves up to date: what streams tell, to whom, and when they end."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from starlette.requests import Request

from devservers import MARIADB, POSTGRES, LocalServer, Product
from polysaga import Status
from polysaga.dashboard import Person, live, marks
from polysaga.sagas.operations.inspector import Inspector
from tests.fixtures.dashboards import ADA, LENA, Stream, Visit, mounted
from tests.fixtures.programs import PLACE_ORDER, Gate, MigratedUrls, Order, Program
from tests.fixtures.setups import embedded_urls
from tests.fixtures.waiting import reached, until
from tests.integration.test_repairs import finished, parked, stuck_going_back


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, looked_at_soon: None) -> None:
    monkeypatch.setattr("polysaga.dashboard.live.EVERY", 0.05)
    monkeypatch.setattr("polysaga.dashboard.live.LOAD", 0.0)


@pytest.mark.parametrize(
    ("viewers", "seconds"), [(0, 2.0), (1, 2.0), (4, 2.0), (10, 5.0), (50, 25.0), (500, 30.0)]
)
def test_many_viewers_with_something_to_load_hear_less_often(
    monkeypatch: pytest.MonkeyPatch, viewers: int, seconds: float
) -> None:
    monkeypatch.undo()
    assert live.pause_after(viewers) == seconds


async def test_a_round_counts_the_viewers_that_load_their_page(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []

    def noted(number: int) -> float:
        loads.append(number)
        return 0.05

    monkeypatch.setattr(live, "pause_after", noted)
    program = stuck_going_back(files)
    async with program.open():
        app = mounted(program)
        async with Stream(app, "/live/overview") as one, Stream(app, "/live/overview") as two:
            for stream in (one, two):
                await stream.next("seen", "changed")
            await parked(program)
            await until(lambda: 2 in loads, "both viewers have something to load")
            await until(lambda: loads[-1] == 0, "no viewer has anything to load any more")


async def test_the_overview_hears_of_a_saga_that_is_parked(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open(), Stream(mounted(program), "/live/overview") as stream:
        await stream.next("seen", "changed")
        await parked(program)
        told = await stream.next("changed")
        while "o-person" not in told["ids"]:
            told = await stream.next("changed")
        assert told["mark"]
        assert "reserve_stock" not in str(told)


async def test_a_list_hears_of_its_own_rows_and_of_newer_ones(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open():
        shown, other = await parked(program), await parked(program)
        path = f"/live/sagas?query=status%3Dneeds_attention&shown={shown}"
        async with Stream(mounted(program), path) as stream:
            await stream.next("seen", "changed")
            await program.sagas.resolve(other, "compensated", by="bob", why="by hand")
            await program.sagas.resolve(shown, "compensated", by="bob", why="by hand")
            told = await stream.next("changed")
            seen = set(told["ids"])
            while f"saga-{shown}" not in seen:
                seen |= set((await stream.next("changed"))["ids"])
            assert f"saga-{other}" not in seen
            await parked(program)
            while "l-newer" not in seen:
                seen |= set((await stream.next("changed"))["ids"])


async def test_a_saga_page_hears_when_its_saga_goes_on(files: MigratedUrls) -> None:
    program, gate = Program(files, PLACE_ORDER), Gate()
    program.on("reserve_stock", gate)
    async with program.open():
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        async with Stream(mounted(program), f"/live/saga/{handle.id}") as stream:
            await stream.next("seen", "changed")
            gate.open()
            await finished(program, handle.id)
            seen: set[str] = set()
            while not {"s-story", "s-time", "s-steps", "s-act"} <= seen:
                seen |= set((await stream.next("changed"))["ids"])


async def test_a_change_between_page_and_stream_is_not_missed(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open():
        app = mounted(program)
        saga_id = await parked(program)
        page = (await Visit(app).get(f"/sagas/{saga_id}")).text
        mark = page.partition('data-mark="')[2].partition('"')[0]
        assert mark
        await program.sagas.resolve(saga_id, "compensated", by="bob", why="by hand")
        async with Stream(app, f"/live/saga/{saga_id}?mark={mark}") as stream:
            assert "s-story" in (await stream.next("changed"))["ids"]


async def test_ten_viewers_cost_the_looks_of_one(files: MigratedUrls, monkeypatch: pytest.MonkeyPatch) -> None:
    program, looks = Program(files, PLACE_ORDER), 0
    whole = Inspector.overview

    async def counted(self: Inspector) -> Any:
        nonlocal looks
        looks += 1
        return await whole(self)

    async with program.open():
        app = mounted(program)
        monkeypatch.setattr(Inspector, "overview", counted)
        streams = [Stream(app, "/live/overview") for _ in range(10)]
        for stream in streams:
            await stream.__aenter__()
        for stream in streams:
            await stream.next("seen", "changed")
        before, heard = looks, 0
        for _ in range(3):
            for stream in streams:
                await stream.next("seen", "changed")
                heard += 1
        assert heard == 30
        assert looks - before <= 10
        for stream in streams:
            await stream.__aexit__()
        await until(lambda: _idle(app), "nothing looks any more when the last viewer has left")


def _idle(app: Any) -> bool:
    return not any("_look_while_there_are_viewers" in str(task.get_coro()) for task in asyncio.all_tasks())


async def test_no_connection_is_held_between_two_looks(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysaga.dashboard.live.EVERY", 30.0)
    program = Program(files, PLACE_ORDER)
    async with program.open():
        given_back = 0

        def count(*_: Any) -> None:
            nonlocal given_back
            given_back += 1

        node = program.handles["orders"].primary
        event.listen(node.writer.sync_engine, "checkin", count)
        streams = [Stream(mounted(program), "/live/overview") for _ in range(5)]
        for stream in streams:
            await stream.__aenter__()
            await stream.next("seen", "changed")
        assert given_back > 0
        await until(lambda: not node.in_use, "no connection is lent while streams wait")
        for stream in streams:
            await stream.__aexit__()


async def test_a_viewer_who_may_not_look_any_more_hears_it_and_the_stream_ends(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysaga.dashboard.live.ASK_AGAIN", 0.1)
    program, people = Program(files, PLACE_ORDER), [ADA]

    def changing(request: Request) -> Person | None:
        return people[-1] if people else None

    async with program.open():
        app = mounted(program, authorize=changing)
        async with Stream(app, "/live/overview") as stream:
            await stream.next("seen", "changed")
            people.append(LENA)
            await stream.next("gone")
            await stream.ended()
        async with Stream(app, "/live/overview") as stream:
            await stream.next("seen", "changed")
            people.clear()
            await stream.next("gone")
            await stream.ended()
        async with Stream(app, "/live/overview") as stream:
            await stream.ended()
            assert stream.status == 401
        await until(lambda: _idle(app), "the look under way has ended: it ends behind the stream")


async def test_a_stream_ends_in_time_for_a_server_that_replaces_its_worker_unasked(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --max-requests a worker gets no signal, and waits for its streams: it would wait for ever."""
    monkeypatch.setattr("polysaga.dashboard.live.LONGEST", 0.2)
    program = Program(files, PLACE_ORDER)
    async with program.open():
        app = mounted(program)
        async with Stream(app, "/live/overview") as stream:
            await stream.next("again")
            await stream.ended()
        monkeypatch.setattr("polysaga.dashboard.live.LONGEST", 600.0)
        async with Stream(app, "/live/overview") as stream:
            mark = (await stream.next("seen", "changed"))["mark"]
        await program.sagas.run(program.saga, Order())
        async with Stream(app, f"/live/overview?mark={mark}") as stream:
            await stream.next("changed")
        await until(lambda: _idle(app), "the look under way has ended: it ends behind the stream")


@pytest.mark.parametrize("later", [LENA, None], ids=["another role", "none"])
async def test_a_viewer_whose_rights_change_just_before_a_stream_ends_hears_it(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch, later: Person | None
) -> None:
    monkeypatch.setattr("polysaga.dashboard.live.LONGEST", 0.2)
    program, first = Program(files, PLACE_ORDER), iter([ADA])

    async with program.open():
        app = mounted(program, authorize=lambda _: next(first, later))
        async with Stream(app, "/live/overview") as stream:
            await stream.next("gone")
            await stream.ended()
        await until(lambda: _idle(app), "the look under way has ended: it ends behind the stream")


def test_the_next_stream_of_a_page_tells_only_what_has_changed_since_the_last_one() -> None:
    """Else every row of a busy list would flash each time."""
    before, now = {"l-list": "1", "saga-a": "1", "saga-b": "1"}, {"l-list": "1", "saga-a": "1", "saga-b": "2"}
    told = {
        known: live._changed(earlier, now, live._Viewer(known=marks.combined(page)))
        for known, earlier, page in (
            ("of the last look", before, before),
            ("of this look", before, now),
            ("of a look that is forgotten", None, before),
            ("of a look of its own", before, {"l-list": "0"}),
        )
    }
    assert told == {
        "of the last look": {"saga-b"},
        "of this look": set(),
        "of a look that is forgotten": set(now),
        "of a look of its own": set(now),
    }


async def test_streams_outlive_a_journal_that_does_not_answer(
    files: MigratedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(files, PLACE_ORDER)
    async with program.open(), Stream(mounted(program), "/live/overview") as stream:
        await stream.next("seen", "changed")

        async def silent(self: Any) -> None:
            raise OSError("connection refused")

        with monkeypatch.context() as patch:
            patch.setattr(Inspector, "overview", silent)
            await stream.next("down")
        await stream.next("seen", "changed")


@pytest.mark.parametrize("product", [POSTGRES, MARIADB], ids=["postgres", "mariadb"])
async def test_fifty_streams_outlive_a_restart_of_the_journal(
    product: Product, started: Callable[..., LocalServer], tmp_path: Path
) -> None:
    server = started(product)
    await asyncio.to_thread(server.create_database, "shop")
    program = stuck_going_back({**embedded_urls(tmp_path), "orders": server.url("shop")})
    async with program.open(), AsyncExitStack() as stack:
        app, shown = mounted(program), await parked(program)
        topics = ("overview", "sagas?query=status%3Dneeds_attention", f"saga/{shown}", "databases", "audit")
        streams = [await stack.enter_async_context(Stream(app, f"/live/{topic}")) for topic in topics * 10]
        for stream in streams:
            await stream.next("seen", "changed")
        await asyncio.to_thread(server.kill)
        for stream in streams:
            await stream.next("down")
        await asyncio.to_thread(server.restart)
        for stream in streams:
            await stream.next("seen", "changed")
        await program.sagas.resolve(shown, "compensated", by="bob", why="by hand")
        for topic, stream in zip(topics * 10, streams, strict=True):
            if topic != "databases":  # nothing of it has changed
                await stream.next("changed")


async def test_streams_end_at_once_when_the_process_is_asked_to_end(files: MigratedUrls) -> None:
    program, heard = Program(files, PLACE_ORDER), asyncio.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: heard.set())
    try:
        async with program.open():
            app = mounted(program)
            async with Stream(app, "/live/overview") as one, Stream(app, "/live/databases") as other:
                await one.next("seen", "changed")
                await other.next("seen", "changed")
                os.kill(os.getpid(), signal.SIGTERM)
                await one.ended()
                await other.ended()
                await reached(heard, "the server's own handler runs as well")
            async with Stream(app, "/live/overview") as late:
                await late.ended()
                assert late.status == 503
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("topic", ["nonsense", "saga/1", "overview/x", "saga/../../etc", "repairs/"])
async def test_a_stream_of_nothing_is_not_there(files: MigratedUrls, topic: str) -> None:
    program = Program(files, PLACE_ORDER)
    async with program.open(), Stream(mounted(program), f"/live/{topic}") as stream:
        await stream.ended()
        assert stream.status == 404


async def test_a_batch_is_followed_to_its_end(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open():
        saga_id = await parked(program)
        del program.hooks["undo:reserve_stock"]
        batch = program.sagas.begin_batch("retry", [saga_id], by="ada", why="gone")
        async with Stream(mounted(program), f"/live/repairs/{batch}?mark=0") as stream:
            assert "b-far" in (await stream.next("changed"))["ids"]
        assert (await finished(program, saga_id)).status is Status.COMPENSATED

"""Pages that keep themselves up to date: one event stream per page, fed by one round of looks per process.

A stream says which parts of its page have changed, never what they say: the page's script fetches the page and
puts the changed parts in their place. So a stream carries nothing that its viewer may not see.

- One task looks every two seconds or less often, while there are viewers. Viewers of the same page share one look,
  and all of them the look at what is unfinished. No database session is held between two looks.
- Each viewer that hears of a change loads the page. The next round waits half a second for each of them, half a
  minute at most: so many viewers of a busy service hear less often, and cost it little.
- What a viewer has not been told yet is a set of parts, so a slow reader costs no memory.
- The stream asks the program's `authorize` again before it says something, and every 15 seconds. For a viewer who
  may not look any more, or has another role now, it ends, and the page's script loads the page again.
- A journal that does not answer ends no stream: the stream says so, and says again when it is back.
- When the process is asked to end, all streams end at once, so the server need not wait for them.
- A server that replaces a worker after so many requests (`--max-requests`) sends the worker no signal: the worker
  waits for its streams. So each stream ends within 20 seconds, and the page's script opens the next one.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import TypeAlias
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from polysaga.dashboard import filters, marks, words
from polysaga.dashboard.access import NotAllowed
from polysaga.dashboard.looking import JournalDown
from polysaga.dashboard.marks import Marks
from polysaga.dashboard.pages import Pages, shown_in
from polysaga.dashboard.screens import audit as audits
from polysaga.dashboard.site import Site
from polysaga.errors import PolysagaError
from polysaga.people import Person
from polysaga.sagas import SagaFilter
from polysaga.signals import heard

EVERY = 2.0  # seconds between two looks
LOAD = 0.5  # seconds for each viewer that loads the page again, if that is more
_RAREST = 30.0  # seconds between two looks at most
ASK_AGAIN = 15.0  # seconds until `authorize` is asked again although nothing has changed
_MOST = 500  # streams of one process
LONGEST = 20.0  # seconds of one stream; gunicorn kills a worker that takes longer than 30 to end
_RETRY = 3000  # milliseconds until a browser opens a stream anew
Look: TypeAlias = Callable[[], Awaitable[Marks]]


@dataclass(eq=False, slots=True)
class _Viewer:
    known: str  # the hash of the page that the viewer has
    changed: set[str] = field(default_factory=set)
    down: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    looked_at: datetime | None = None


@dataclass(eq=False, slots=True)
class _Watch:
    """What viewers of one page have in common."""

    look: Look
    viewers: set[_Viewer] = field(default_factory=set)
    marks: Marks | None = None


class Live:
    """The streams of one dashboard in one process."""

    def __init__(self, site: Site, pages: Pages) -> None:
        self._site, self._pages = site, pages
        self._watches: dict[str, _Watch] = {}
        self._rounds: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def stream(self, request: Request) -> Response:
        """Answer with the event stream of a page."""
        person = await self._site.door.person(request)
        look = self._look_for(request)
        if self._number() >= _MOST or self._stopping.is_set():
            told = "This process ends." if self._stopping.is_set() else "Too many pages are live; this one is not."
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, told)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = self._events(request, person, look)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _events(self, request: Request, person: Person, look: Look) -> AsyncIterator[str]:
        viewer = _Viewer(known=request.query_params.get("mark", ""))
        asked = request.query_params
        key = f"{request.path_params['topic']}?{asked.get('query', '')}&{asked.get('shown', '')}"
        watch = self._watches.setdefault(key, _Watch(look))
        watch.viewers.add(viewer)
        self._begin()
        try:
            yield f"retry: {_RETRY}\n\n"
            asked_at = self._site.clock.monotonic()
            until = asked_at + LONGEST * random.uniform(0.8, 1.0)  # not all at once that began with a new process
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(ASK_AGAIN, until - self._site.clock.monotonic())):
                        await viewer.news.wait()
                if self._stopping.is_set():
                    break
                if self._site.clock.monotonic() >= until:
                    # The next stream tells what has changed since the page's mark, but not that a role has.
                    yield _event("again" if await self._still(request, person) else "gone", {})
                    return
                told = bool(viewer.changed) or not viewer.news.is_set()
                viewer.news.clear()
                if told or self._site.clock.monotonic() - asked_at > ASK_AGAIN:
                    if not await self._still(request, person):
                        yield _event("gone", {})
                        return
                    asked_at = self._site.clock.monotonic()
                yield self._told(viewer, watch)
        finally:
            watch.viewers.discard(viewer)  # the page's next stream may find the watch, and go on from its marks

    async def _still(self, request: Request, person: Person) -> bool:
        try:
            return await self._site.door.person(request) == person
        except (NotAllowed, HTTPException):
            return False

    def _told(self, viewer: _Viewer, watch: _Watch) -> str:
        at = words.clock(viewer.looked_at or self._site.now())
        if viewer.down:
            return _event("down", {"at": at})
        changed, viewer.changed = sorted(viewer.changed), set()
        mark = "" if watch.marks is None else marks.combined(watch.marks)
        return _event("changed" if changed else "seen", {"ids": changed, "mark": mark, "at": at})

    def _number(self) -> int:
        return sum(len(watch.viewers) for watch in self._watches.values())

    def _begin(self) -> None:
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._look_while_there_are_viewers())

    async def _look_while_there_are_viewers(self) -> None:
        with heard(self._stop):
            while self._is_watched() and not self._stopping.is_set():
                pause = pause_after(await self._round())
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()

    def _is_watched(self) -> bool:
        """Forget what has no viewers any more; return whether there are any."""
        self._watches = {key: watch for key, watch in self._watches.items() if watch.viewers}
        return bool(self._watches)

    def _stop(self) -> None:
        self._stopping.set()
        for watch in self._watches.values():
            for viewer in watch.viewers:
                viewer.news.set()

    async def _round(self) -> int:
        """Look once at every page that is watched; return how many viewers have something to load."""
        for watch in tuple(self._watches.values()):
            try:
                found: Marks | None = await watch.look()
            except (JournalDown, PolysagaError, HTTPException):
                found = None
            now = self._site.now()
            for viewer in watch.viewers:
                viewer.looked_at, viewer.down = now, found is None
                if found is not None:
                    viewer.changed |= _changed(watch.marks, found, viewer)
                viewer.news.set()
            watch.marks = found if found is not None else watch.marks
        return sum(bool(viewer.changed) for watch in self._watches.values() for viewer in watch.viewers)

    def _look_for(self, request: Request) -> Look:
        """Return the look at the page that a stream is for; raise `HTTPException` if there is no such page."""
        kind, _, name = request.path_params["topic"].partition("/")
        query = request.query_params.get("query", "")
        match kind, name, filters.uuid_in(name):
            case "overview", "", _:
                return self._overview
            case "databases", "", _:
                return self._databases
            case "audit", "", _:
                return lambda: self._audit(query)
            case "sagas", "", _:
                shown = shown_in(request)
                return lambda: self._list(query, shown)
            case "saga", _, UUID() as saga_id:
                return lambda: self._saga(saga_id)
            case "repairs", _, UUID() as batch_id:
                return lambda: self._batch(batch_id)
        raise HTTPException(HTTPStatus.NOT_FOUND)

    async def _overview(self) -> Marks:
        site = self._site
        databases = await site.facts()
        found, activity = await site.looking.overview(), await site.looking.activity()
        return marks.of_overview(found, activity, databases, site.recent.lines)

    async def _databases(self) -> Marks:
        site = self._site
        databases = await site.facts()
        return marks.of_databases(databases, await site.looking.overview(), site.recent.lines)

    async def _audit(self, query: str) -> Marks:
        search, found = audits.read(query), await self._site.looking.overview()
        page = await self._pages.acts(search)
        return marks.of_audit(page.lines, found)

    async def _list(self, query: str, shown: list[UUID]) -> Marks:
        site, found = self._site, await self._site.looking.overview()
        async with site.looking.answering():
            sagas = (await site.sagas.find(SagaFilter(ids=shown), limit=len(shown))).sagas if shown else ()
        newer = await self._pages.newer(filters.read(query), sagas)
        return marks.of_list(sagas, found, newer)

    async def _saga(self, saga_id: UUID) -> Marks:
        site, found = self._site, await self._site.looking.overview()
        async with site.looking.answering():
            saga = await site.sagas.get(saga_id)
        return marks.of_case(saga, found)

    async def _batch(self, batch_id: UUID) -> Marks:
        site, found = self._site, await self._site.looking.overview()
        async with site.looking.answering():
            batch = await site.sagas.batch(batch_id)
        if batch is None:
            return {}
        return marks.of_batch(batch, await site.looking.fates(batch_id), found)


def pause_after(loads: int) -> float:
    """Return the seconds to the next round after one that makes *loads* viewers load their page."""
    return min(max(EVERY, LOAD * loads), _RAREST)


def _changed(before: Marks | None, now: Marks, viewer: _Viewer) -> set[str]:
    """Return the parts that *viewer* has to load: those that changed, or all if the page is another one."""
    known, viewer.known = viewer.known, ""
    if known and (before is None or known != marks.combined(before)):
        return set() if known == marks.combined(now) else set(now)
    if before is None:
        return set()
    return {part for part in {*before, *now} if before.get(part) != now.get(part)}


def _event(name: str, data: dict[str, object]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"

"""The pages that only look. Every one is a GET, works without JavaScript, and has its state in its address."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from polysaga.dashboard import filters, marks, words
from polysaga.dashboard.drawing import charts
from polysaga.dashboard.looking import JournalDown
from polysaga.dashboard.readings import engines_of
from polysaga.dashboard.screens import audit as audits
from polysaga.dashboard.screens.case import SagaScreen, saga_screen
from polysaga.dashboard.screens.declared import DeclaredSaga, find
from polysaga.dashboard.screens.listing import SagaRow, may_end_processes, rows
from polysaga.dashboard.screens.nodes import DatabaseFacts, databases_screen, outages, strip, trouble
from polysaga.dashboard.screens.overview import overview_screen, unfinished_query
from polysaga.dashboard.site import LEGEND, Site, parked_in
from polysaga.sagas import AuditPage, Examination, Overview, SagaFilter, SagaPage, SagaSummary, Status

_PAGE = 50  # sagas, or lines of the audit trail
_BUILT_IN = (
    ("Needs attention", "status=needs_attention"),
    ("Under way", "status=running&status=completing&status=compensating"),
    ("Has a retrying step", "retrying=1"),
    ("Late", "late=1"),
    ("Undone, started in the last hour", "status=compensated&since=1h"),
)


class Pages:
    """The pages of one dashboard."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def overview(self, request: Request) -> Response:
        """Answer with the first page."""
        site = self._site
        visitor = await site.door.visitor(request)
        found, activity = await site.looking.overview(), await site.looking.activity()
        databases = await site.facts()
        screen = overview_screen(
            found,
            activity,
            program=site.program,
            mask=site.mask,
            lease=site.lease,
            trouble=trouble(databases, site.recent.out_of_reach),
            outages=outages(databases, site.recent.out_of_reach),
            absences=[one.told for one in site.recent.absences()],
        )
        seen = marks.of_overview(found, activity, databases, site.recent.lines)
        shared = {"strip": strip(databases), "seen": seen, **site.strip_data()}
        if screen.empty and await self._is_empty():
            return site.page(
                request,
                "empty.html",
                visitor=visitor,
                here="Overview",
                live="overview",
                json="/overview",
                graphs=[_graph(one) for one in site.program],
                checks=self._checks(databases),
                **shared,
            )
        source = "Numbers of the last hour are of this process only"
        if activity.shared:
            number = words.counted(len(activity.processes), "process", "processes")
            source = f"Numbers of the last hour come from {number}"
        return site.page(
            request,
            "overview.html",
            visitor=visitor,
            here="Overview",
            live="overview",
            json="/overview",
            source=source,
            o=screen,
            unfinished=unfinished_query(),
            **shared,
        )

    async def sagas(self, request: Request) -> Response:
        """Answer with the list of sagas that the address asks for."""
        site, search = self._site, filters.read(request.url.query)
        visitor = await site.door.visitor(request)
        overview, shown = await site.looking.overview(), shown_in(request)
        async with site.looking.answering():
            page = await (self._these(shown) if shown else self.find(search))
        lines = rows(page.sagas, overview.at, program=site.program, mask=site.mask, lease=site.lease)
        number, many = await self._count(search, overview) if search.narrow and lines else (None, "")
        newest = search.query(after=None)
        newer = await self.newer(search, page.sagas) if shown else 0
        return site.page(
            request,
            "sagas.html",
            visitor=visitor,
            here="Sagas",
            live=f"sagas?{urlencode({'query': search.query()})}",
            seen=marks.of_list(page.sagas, overview, newer),
            json=f"/sagas?{search.query()}",
            f=search,
            since=search.since if isinstance(search.since, str) else _moment(search.since),
            rows=lines,
            asked=filters.sentence(search, number),
            many=many if search.narrow and not search.problems else "",
            ends_processes=any(map(may_end_processes, page.sagas)),
            may_choose=any(not Status(line.kind).final for line in lines),
            # With its problems, so that an act on all that match is refused.
            query=request.url.query if search.problems else newest,
            longest=filters.LONGEST,
            newest=newest,
            newer=_newer_text(newer),
            older=search.query(after=page.next) if page.next is not None else "",
            pager=_pager(page, number),
            why_none=_why_none(search, page),
            **self._choices(search, overview, lines),
        )

    async def find(self, search: filters.Search) -> SagaPage:
        """Return a page of the sagas that *search* asks for; a key that is an id finds the saga itself."""
        site, saga_id = self._site, search.saga_id()
        wanted = search.selects(site.now())
        if saga_id is not None:
            page = await self._these([saga_id])
            if page.sagas:
                return page
        return await site.sagas.find(wanted, limit=_PAGE, after=search.after)

    async def newer(self, search: filters.Search, shown: Sequence[SagaSummary]) -> int:
        """Return how many sagas that match were started since the newest one *shown*, at most 51."""
        if not shown or search.after is not None or search.key is not None or search.until is not None:
            return 0
        site, known = self._site, {saga.id for saga in shown}
        wanted = replace(search, since=max(saga.created_at for saga in shown)).selects(site.now())
        async with site.looking.answering():
            page = await site.sagas.find(wanted, limit=_PAGE + 1)
        return sum(saga.id not in known for saga in page.sagas)

    async def acts(self, search: audits.AuditSearch) -> AuditPage:
        """Return a page of what people did."""
        site = self._site
        async with site.looking.answering():
            return await site.sagas.inspector().audit(search.selects(site.now()), limit=_PAGE, after=search.after)

    async def saga(self, request: Request) -> Response:
        """Answer with one saga."""
        visitor = await self._site.door.visitor(request)
        screen, seen = await self.screen(request.path_params["saga_id"], whole="whole" in request.query_params)
        return self.answer_saga(request, visitor, screen, seen=seen)

    async def screen(self, saga_id: UUID, *, whole: bool = False) -> tuple[SagaScreen, marks.Marks]:
        """Return everything about one saga, and its parts; raise `UnknownSaga`."""
        site = self._site
        overview = await site.looking.overview()
        found = await self.examined(saga_id)
        drivers: tuple[str, ...] = ()
        if not found.saga.known:
            drivers = (await site.looking.activity()).others_that_know(found.saga.name, found.saga.version)
        screen = saga_screen(
            found,
            declared=find(site.program, found.saga.name, found.saga.version),
            engines=engines_of(site.databases),
            mask=site.mask,
            trace=site.trace,
            lease=site.lease,
            drivers=drivers,
            whole=whole,
        )
        return screen, marks.of_case(found.saga, overview)

    async def examined(self, saga_id: UUID) -> Examination:
        """Return what all databases say of one saga; raise `UnknownSaga`."""
        sagas = self._site.sagas
        async with self._site.looking.answering(20.0):  # each ledger has 15 s
            # `Sagas.get` has the latest attempts of a saga that this process drives.
            return await sagas.inspector().examine(saga_id, details=await sagas.get(saga_id))

    def answer_saga(self, request: Request, visitor: Any, screen: SagaScreen, **more: Any) -> Response:
        """Answer with the page of one saga; *more* is what a form brought along."""
        typed = {"action": "", "why": "", "result": "null"}
        return self._site.page(
            request,
            "saga.html",
            visitor=visitor,
            here="Sagas",
            live=f"saga/{screen.id}",
            json=f"/sagas/{screen.id}",
            s=screen,
            legend=LEGEND,
            **{"typed": typed, **more},
        )

    async def databases(self, request: Request) -> Response:
        """Answer with the databases."""
        site = self._site
        visitor = await site.door.visitor(request)
        facts = await site.facts()
        screen = databases_screen(facts, site.recent.lines, site.now())
        seen: marks.Marks = {}
        with suppress(JournalDown):  # what this process knows of its databases needs no journal
            seen = marks.of_databases(facts, await site.looking.overview(), site.recent.lines)
        return site.page(
            request,
            "databases.html",
            visitor=visitor,
            here="Databases",
            live="databases",
            seen=seen,
            json="/databases",
            d=screen,
            listening=site.recent.subscribed,
        )

    async def audit(self, request: Request) -> Response:
        """Answer with what people did, as a page or as CSV."""
        site, search = self._site, audits.read(request.url.query)
        visitor = await site.door.visitor(request)
        overview, found = await site.looking.overview(), await self.acts(search)
        screen = audits.audit_screen(found.lines, found.next, search, site.now())
        if request.query_params.get("format") == "csv":
            if search.problems:
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, " ".join(search.problems))
            return _csv(screen)
        return site.page(
            request,
            "audit.html",
            visitor=visitor,
            here="Audit",
            live=f"audit?{urlencode({'query': search.query()})}",
            seen=marks.of_audit(found.lines, overview),
            json=f"/audit?{search.query()}",
            csv=f"?{search.query()}&format=csv",
            a=screen,
            f=search,
            actions=audits.ACTIONS,
            spans=audits.SPANS.items(),
            newest=search.query(after=None),
            longest=filters.LONGEST,
        )

    async def _these(self, ids: list[UUID]) -> SagaPage:
        page = await self._site.sagas.find(SagaFilter(ids=ids), limit=max(1, len(ids)))
        order = {saga_id: place for place, saga_id in enumerate(ids)}
        return SagaPage(tuple(sorted(page.sagas, key=lambda saga: order.get(saga.id, 0))), None)

    async def _count(self, search: filters.Search, overview: Overview) -> tuple[str | None, str]:
        """Return how many match, and how many a repair of all that match would be about.

        Only what is unfinished is counted: that is cheap, however many sagas have ended. A repair without a status
        is about those that are parked. Of a search for statuses only, *overview* has the number, as the rest of
        the page has it.
        """
        known = sum(overview.unfinished.get(status, 0) for status in search.status)
        if known and search.unfinished and replace(search, after=None) == filters.Search(status=search.status):
            return words.number(known), words.number(known)
        repairable = search if search.unfinished else replace(search, status=(Status.NEEDS_ATTENTION,))
        if search.key is not None or (search.status and not search.unfinished):
            return None, ""
        site = self._site
        async with site.looking.answering():
            count = await site.sagas.inspector().count(repairable.selects(site.now()))
        number = words.number(count.number)
        many = number if count.exact and count.number else ""
        if repairable is not search:
            return None, many and f"{many} parked"
        return number if count.exact else f"{number} or more", many

    async def _is_empty(self) -> bool:
        async with self._site.looking.answering():
            return not (await self._site.sagas.find(limit=1)).sagas

    def _choices(self, search: filters.Search, overview: Overview, lines: Sequence[SagaRow]) -> dict[str, Any]:
        site = self._site
        own = search.query(after=None)
        saved = [(name, query, _known_number(query, overview)) for name, query in _BUILT_IN]
        saved += [(name, query, 0) for name, query in site.searches.items()]
        names = dict.fromkeys(one.name for one in site.program)
        steps = dict.fromkeys(
            step.name for one in site.program if search.name in {None, one.name} for step in one.steps
        )
        steps |= dict.fromkeys(line.step for line in lines if line.step is not None)  # also of other versions
        searches = [(name, query, number, filters.read(query).query() == own) for name, query, number in saved]
        return {
            "searches": searches,
            "toggles": [
                (status.value, overview.unfinished.get(status, 0), status in search.status)
                for status in (
                    Status.NEEDS_ATTENTION, Status.RUNNING, Status.COMPLETING, Status.COMPENSATING,
                    Status.COMPLETED, Status.COMPENSATED,
                )
            ],
            "waiting": overview.waiting,
            "late": sum(group.count for group in overview.late),
            "crashing": overview.crashing,
            "names": [(name, name) for name in names],
            "steps": [(name, name) for name in steps],
            "places": [(handle.name, handle.name) for handle in site.databases],
            "spans": list(filters.SPANS.items()),
        }  # fmt: skip

    def _checks(self, databases: Sequence[DatabaseFacts]) -> list[tuple[str, str, str, str]]:
        site, engines = self._site, {one.name: one.engine for one in databases}
        silent = [one.name for one in databases if one.refusal is not None]
        listed = ", ".join(f"{name} {engine}" for name, engine in engines.items())
        answer = words.counted(len(databases), "database answers", "databases answer")
        checks = [("ok", "done", answer, listed)]
        if silent:
            checks = [("failed", "gone", f"{words.joined(silent)} does not answer", listed)]
        checks.append(
            ("ok", "done", "Our tables are there", f"journal and audit trail in {site.journal}, a ledger in each")
        )
        if "SQLite" in engines.values():
            checks.append(("warn", "late", "SQLite has no replicas", "All reads go to the one file."))
        if not site.door.knows_people:
            checks.append(
                (
                    "warn",
                    "late",
                    "Only this machine is served",
                    "dashboard(authorize=...) lets people in from elsewhere.",
                )
            )
        return checks


def _graph(saga: DeclaredSaga) -> dict[str, Any]:
    pivot = next((step.name for step in saga.steps if step.kind == "pivot"), None)
    told = "; then ".join(f"{step.name} in {step.where}" for step in saga.steps)
    drawing = charts.graph(
        [(step.name, step.where, step.kind) for step in saga.steps],
        [(before, step.name) for step in saga.steps for before in step.after],
        f"{saga.name}: {told}",
    )
    note = f"decided by {pivot}" if pivot else "decided by its last step"
    return {"name": saga.name, "version": saga.version, "note": note, "drawing": drawing}


def shown_in(request: Request) -> list[UUID]:
    """Return the sagas that a page shows already, when its script fetches what changed of them."""
    given = [filters.uuid_in(text) for text in request.query_params.get("shown", "").split(",")[:_PAGE]]
    return [one for one in given if one is not None]


def _newer_text(number: int) -> str:
    if not number:
        return ""
    told = f"{_PAGE} or more" if number > _PAGE else str(number)
    return f"{told} newer {words.verb(number, 'saga has started. Show it', 'sagas have started. Show them')}"


def _known_number(query: str, overview: Overview) -> int:
    search = filters.read(query)
    if search.late:
        return sum(group.count for group in overview.late)
    if search.crashing:
        return overview.crashing
    if search.retrying or any(status.final for status in search.status):
        return 0
    if search.status == (Status.NEEDS_ATTENTION,):
        return parked_in(overview)
    return sum(overview.unfinished.get(status, 0) for status in search.status)


def _moment(value: Any) -> str:
    return "" if value is None else value.isoformat()


def _pager(page: SagaPage, number: str | None) -> str:
    shown = words.number(len(page.sagas))
    text = f"{shown} of {number}" if number is not None else words.counted(len(page.sagas), "saga")
    if page.searched_to is not None:
        text += f". Searched back to {page.searched_to:%Y-%m-%d %H:%M:%S} UTC; older ones may match too."
    return text


def _why_none(search: filters.Search, page: SagaPage) -> str:
    if search.key is not None:
        return (
            "A key is found whole: it is looked up, not searched. Sagas that have been at rest for the retention "
            "time are removed; what people did to them is still in the audit trail."
        )
    if search.unfinished:
        return (
            "None is in this state now. Those that were have gone on since: look for them by name, by key or by "
            "the time of their start."
        )
    if search.status == (Status.COMPLETED,) and (search.step or search.database):
        return "Of sagas that have completed the journal does not keep which steps had failed on the way."
    if page.searched_to is not None:
        return (
            f"Nothing matches back to {page.searched_to:%Y-%m-%d %H:%M:%S} UTC. The search stops there, so that "
            "no page takes long; it can go on in older ones."
        )
    return "Sagas that have been at rest for the retention time are removed."


def _csv(screen: audits.AuditScreen) -> Response:
    text = io.StringIO()
    written = csv.writer(text)
    written.writerow(["at", "by", "action", "what", "saga", "why", "before", "after"])
    for row in screen.rows:
        saga = "" if row.saga_id is None else str(row.saga_id)
        cells = [row.iso, row.by, row.action, row.what, saga, row.why, row.before, row.after]
        # A spreadsheet would take these as formulas.
        written.writerow([f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t"} else cell for cell in cells])
    headers = {"Content-Disposition": 'attachment; filename="audit.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)

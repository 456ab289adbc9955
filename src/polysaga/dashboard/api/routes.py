"""The same as the pages, for programs: JSON below `/api`, described at `/api/openapi.json`.

Viewers may read it, and operators may act, as on the pages. Acts are POST with a JSON body, and are refused to
pages of other sites: browsers ask before they send JSON elsewhere, and nothing here answers that question. Masked
values are the text `masked`. Refusals are problem details (RFC 9457).
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Depends, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from polysaga.dashboard.access import may_come_from
from polysaga.dashboard.api.bodies import (
    AuditList,
    BatchBegun,
    Cursor,
    DatabaseReport,
    Key,
    ManyMoved,
    ManyResolved,
    ManySkipped,
    Moment,
    OrderOutcome,
    ResolveOrder,
    SagaExamined,
    SagaList,
    SagaOrder,
    SkipOrder,
    Text,
    UnfinishedNow,
)
from polysaga.dashboard.api.problems import ANSWERS, refusals
from polysaga.dashboard.api.reports import Reports, database_reports, outcome
from polysaga.dashboard.filters import Search, uuid_in
from polysaga.dashboard.pages import Pages
from polysaga.dashboard.screens.audit import LENGTHS
from polysaga.dashboard.site import Site
from polysaga.people import Person, Role
from polysaga.sagas import Activity, AuditFilter, BatchProgress, Status


def api(site: Site, pages: Pages) -> FastAPI:
    """Return the application below `/api`."""
    app = FastAPI(
        title="Polysaga dashboard",
        description=__doc__,
        version="1",
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    made = _Api(site, pages)

    async def viewer(request: Request) -> Person:
        return await site.door.person(request)

    checks = [Depends(viewer), Depends(_refuse_unknown_parameters)]
    router = APIRouter(dependencies=checks, responses=refusals(401, 403, 404, 422, 503))
    add = router.add_api_route
    add("/overview", made.overview, summary="What is unfinished now")
    add("/activity", made.activity, summary="What all processes did in the last hour")
    add("/sagas", made.sagas, summary="Find sagas")
    add("/sagas/{saga_id}", made.saga, summary="Everything about one saga")
    add("/databases", made.databases, summary="Databases as this process sees them")
    add("/audit", made.audit, summary="What people did")
    add("/repairs/{batch}", made.progress, summary="How far a repair of many sagas is")
    acting = refusals(400, 409, 413)
    for action, act in made.acts.items():
        summary = f"{action.capitalize()} one saga"
        add(f"/sagas/{{saga_id}}/{action}", act, methods=["POST"], responses=acting, summary=summary)
    stop = "Stop a repair of many sagas"
    add("/repairs/{batch}/stop", made.stop, methods=["POST"], responses=acting, summary=stop)
    add("/repairs", made.begin, methods=["POST"], status_code=202, responses=acting, summary="Repair many sagas")
    app.include_router(router)

    @app.get("/openapi.json", include_in_schema=False)
    async def described(person: Annotated[Person, Depends(viewer)], request: Request) -> JSONResponse:
        return JSONResponse({**app.openapi(), "servers": [{"url": request.scope.get("root_path", "")}]})

    for kind, answer in ANSWERS.items():
        app.add_exception_handler(kind, answer)
    return app


def _refuse_unknown_parameters(request: Request) -> None:
    """Refuse parameters that the address does not have: a mistyped filter would list everything."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    there = f"those of this address are {', '.join(known)}" if known else "this address has none"
    message = f"there is no such parameter; {there}"
    unknown = dict.fromkeys(name for name in request.query_params if name not in known)
    if unknown:
        errors = [{"type": "unknown", "loc": ("query", name), "msg": message, "input": None} for name in unknown]
        raise RequestValidationError(errors)


class _Api:
    def __init__(self, site: Site, pages: Pages) -> None:
        self._site, self._pages, self._reports = site, pages, Reports(site)

    async def overview(self) -> UnfinishedNow:
        """Return how many sagas are unfinished, why some are parked, which are late, and the oldest."""
        return self._reports.overview(await self._site.looking.overview())

    async def activity(self) -> Activity:
        """Return counts and times of sagas and steps, minute by minute, and the processes."""
        return await self._site.looking.activity()

    async def sagas(
        self,
        *,
        status: Annotated[list[Status] | None, Query()] = None,
        name: Annotated[Text | None, Query()] = None,
        step: Annotated[Text | None, Query(description="the failing step")] = None,
        database: Annotated[Text | None, Query(description="of the failing step")] = None,
        key: Annotated[Key | None, Query(description="the whole key, or an id")] = None,
        error: Annotated[Text | None, Query(description="part of the reason")] = None,
        since: Annotated[Literal["1h", "24h", "7d"] | Moment | None, Query()] = None,
        until: Annotated[Moment | None, Query()] = None,
        retrying: bool = False,
        late: bool = False,
        waiting: bool = False,
        crashing: bool = False,
        known: bool | None = None,
        after: Annotated[Cursor | None, Query(description="`next` of the page before")] = None,
    ) -> SagaList:
        """Return a page of 50 sagas, the newest first."""
        search = Search(
            status=tuple(status or ()), name=name, step=step, database=database, key=key, error=error, since=since,
            until=until, retrying=retrying, late=late, waiting=waiting, crashing=crashing, known=known,
            after=after,
        )  # fmt: skip
        async with self._site.looking.answering():
            page = await self._pages.find(search)
        return self._reports.page(page, self._site.now())

    async def saga(self, saga_id: UUID) -> SagaExamined:
        """Return a saga with its history, what each ledger says of it, what comes next and what can be done."""
        return self._reports.saga(await self._pages.examined(saga_id))

    async def databases(self) -> list[DatabaseReport]:
        """Return roles, lag, pools and reads of each database, from memory."""
        return database_reports(await self._site.facts())

    async def audit(
        self,
        by: Annotated[Text | None, Query()] = None,
        action: Annotated[Literal["retry", "skip", "compensate", "resolve"] | None, Query()] = None,
        saga: Annotated[Key | None, Query(description="the id of a saga, or the whole key")] = None,
        batch: Annotated[UUID | None, Query()] = None,
        since: Annotated[Literal["24h", "7d", "30d"] | Moment | None, Query()] = None,
        until: Annotated[Moment | None, Query()] = None,
        after: Annotated[Cursor | None, Query(description="`next` of the page before")] = None,
    ) -> AuditList:
        """Return what people did, one line for each act and for each batch."""
        site, saga_id = self._site, uuid_in(saga or "")
        wanted = AuditFilter(
            by=by,
            action=action,
            saga_id=saga_id,
            key=saga if saga_id is None else None,
            batch=batch,
            since=site.now() - LENGTHS[since] if isinstance(since, str) else since,
            until=until,
        )
        async with site.looking.answering():
            found = await site.sagas.inspector().audit(wanted, after=after)
        return self._reports.audit(found)

    async def progress(self, batch: UUID) -> BatchProgress:
        """Return how far it is."""
        async with self._site.looking.answering():
            found = await self._site.sagas.batch(batch)
        if found is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such batch.")
        return found

    @property
    def acts(self) -> Mapping[str, Callable[..., Awaitable[OrderOutcome]]]:
        """The repairs of one saga, by their names in the address."""
        return {
            "retry": self.retry_saga,
            "skip": self.skip_step,
            "compensate": self.compensate_saga,
            "resolve": self.resolve_saga,
        }

    async def retry_saga(
        self, request: Request, saga_id: UUID, asked: Annotated[SagaOrder, Body()]
    ) -> OrderOutcome:
        """Let it go on in the direction that it had, when the cause is gone."""
        person, sagas = await self._operator(request), self._site.sagas
        return outcome(await sagas.retry(saga_id, by=person.name, why=asked.why, dry_run=asked.dry_run))

    async def skip_step(
        self, request: Request, saga_id: UUID, asked: Annotated[SkipOrder, Body()]
    ) -> OrderOutcome:
        """Take a step as done by hand, or as undone if the saga is being undone."""
        person, sagas = await self._operator(request), self._site.sagas
        return outcome(
            await sagas.skip(
                saga_id, asked.step, asked.result, by=person.name, why=asked.why, dry_run=asked.dry_run
            )
        )

    async def compensate_saga(
        self, request: Request, saga_id: UUID, asked: Annotated[SagaOrder, Body()]
    ) -> OrderOutcome:
        """Undo everything that it did, if it is not decided."""
        person, sagas = await self._operator(request), self._site.sagas
        return outcome(await sagas.compensate(saga_id, by=person.name, why=asked.why, dry_run=asked.dry_run))

    async def resolve_saga(
        self, request: Request, saga_id: UUID, asked: Annotated[ResolveOrder, Body()]
    ) -> OrderOutcome:
        """End it by a person's word; none of its steps runs any more."""
        person, sagas = await self._operator(request), self._site.sagas
        return outcome(
            await sagas.resolve(saga_id, asked.outcome, by=person.name, why=asked.why, dry_run=asked.dry_run)
        )

    async def begin(
        self,
        request: Request,
        asked: Annotated[ManyMoved | ManySkipped | ManyResolved, Body(discriminator="action")],
    ) -> BatchBegun:
        """Begin to repair the sagas in the background; `GET /repairs/{batch}` says how far it is."""
        person, ids = await self._operator(request), tuple(dict.fromkeys(asked.ids))
        if asked.count != len(ids):
            raise HTTPException(HTTPStatus.CONFLICT, f"count is {asked.count}, and these are {len(ids)} sagas.")
        batch = self._site.sagas.begin_batch(
            asked.action,
            ids,
            by=person.name,
            why=asked.why,
            step=asked.step if isinstance(asked, ManySkipped) else None,
            result=asked.result if isinstance(asked, ManySkipped) else None,
            outcome=asked.outcome if isinstance(asked, ManyResolved) else None,
        )
        return BatchBegun(batch=batch)

    async def stop(self, request: Request, batch: UUID) -> BatchProgress:
        """Begin no more repairs of it: the sagas that it has not come to stay as they are."""
        person = await self._operator(request)
        is_stopped, told = self._site.sagas.stop_batch(batch, by=person.name), await self.progress(batch)
        if not is_stopped:
            why = "It has ended." if told.here else "Another process works on it; it is stopped there."
            raise HTTPException(HTTPStatus.CONFLICT, why)
        return told

    async def _operator(self, request: Request) -> Person:
        person = await self._site.door.person(request)
        if person.role is not Role.OPERATOR:
            raise HTTPException(HTTPStatus.FORBIDDEN, f"{person.name} may look, not act.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" or not may_come_from(request):
            raise HTTPException(HTTPStatus.FORBIDDEN, "Pages of other sites may not act here; send JSON as JSON.")
        return person

"""The same as the pages, for programs: JSON below `/api`, described at `/api/openapi.json`.

Viewers may read it, and operators may act, as on the pages. Acts are POST with a JSON body, and are refused to
pages of other sites: browsers ask before they send JSON elsewhere, and nothing here answers that question. Masked
values are the text `masked`. Refusals are problem details (RFC 9457).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Depends, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from polysaga.dashboard.access import NotAllowed, may_come_from
from polysaga.dashboard.filters import Search
from polysaga.dashboard.looking import JournalDown
from polysaga.dashboard.masking import decoded, without
from polysaga.dashboard.pages import Pages
from polysaga.dashboard.screens.listing import comes_next, going_on, masked_in, masked_values
from polysaga.dashboard.screens.nodes import state
from polysaga.dashboard.site import Site
from polysaga.errors import DefinitionError, PayloadError, PolysagaError, TryAgain, UnknownSaga
from polysaga.people import Person, Role
from polysaga.sagas import (
    Activity,
    Attempt,
    AuditFilter,
    BatchProgress,
    Cause,
    Examination,
    LateGroup,
    Option,
    Planned,
    Repair,
    SagaSummary,
    Status,
    StepFacts,
    Tenure,
)

_PROBLEM = "application/problem+json"
Text = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]+$")]
# The \s of JSON Schema lacks what Python takes for space besides.
Words = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00]*[^\s\x00\x1c-\x1f\x85][^\x00]*$")]


def _written(value: object) -> object:
    # A number would be seconds since 1970, and the document says that moments are written out.
    if isinstance(value, str) and "T" not in value.upper():
        raise PydanticCustomError("moment", "write a moment as 2026-11-23T14:32:07Z")
    return value


def _whole(value: object) -> object:
    # A number without a fraction is an integer in JSON, also as 2.0; a text or true is none.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]
Cursor = Annotated[
    str,
    Field(
        max_length=80,
        pattern=r"^(20\d\d-((0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
        r"|20([02468][048]|[13579][26])-02-29)"
        r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?\+00:00~"
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    ),
]


class ApiProblem(BaseModel):
    """A refusal (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ListedSaga(BaseModel):
    """One saga of a list."""

    id: UUID
    name: str
    version: int
    known: bool = Field(description="this process has the definition")
    key: str | None
    status: Status
    parked_from: Status | None
    step: str | None = Field(description="the step that the reason is about")
    retried: str | None = Field(description="the step whose last attempt failed")
    reason: str | None
    going_on: str
    next: str = Field(description="what happens next and when")
    epoch: int
    created_at: datetime
    wake_at: datetime | None
    deadline: datetime | None
    parked_at: datetime | None
    finished_at: datetime | None


class SagaList(BaseModel):
    """Sagas, the newest first; `next` is the `after` of the following page."""

    sagas: list[ListedSaga]
    next: str | None
    searched_to: datetime | None = Field(description="how far back a search has come that found too little")


class UnfinishedNow(BaseModel):
    """What is unfinished now."""

    at: datetime
    unfinished: dict[Status, int]
    waiting: int = Field(description="put aside until they wake")
    crashing: int = Field(description="while they were driven, three processes in a row ended or hung")
    late: list[LateGroup]
    causes: list[Cause]
    causes_complete: bool
    oldest: list[ListedSaga]


class LedgerRecord(BaseModel):
    """What one database says of one step."""

    step: str
    state: str
    result: Any


class LedgerAnswer(BaseModel):
    """What one database says of a saga."""

    database: str
    is_journal: bool
    rows: list[LedgerRecord]
    problem: str | None = Field(description="why it could not be asked")


class AuditItem(BaseModel):
    """What a person did."""

    at: datetime
    by: str
    action: str
    why: str
    saga_id: UUID | None
    saga: str | None
    batch: UUID | None
    count: int
    details: Any


class AuditList(BaseModel):
    """What people did, the newest first."""

    lines: list[AuditItem]
    next: str | None


class ContradictionItem(BaseModel):
    """One fact on which journal and ledgers disagree."""

    kind: str
    step: str | None
    database: str | None
    detail: str


class SagaExamined(ListedSaga):
    """Everything about one saga."""

    input: Any
    facts: Any = Field(description="of a refusal")
    traceback: str | None
    late: bool
    alike: int = Field(description="other parked sagas with the same cause")
    removed_at: datetime | None
    steps: list[StepFacts]
    history: list[Attempt]
    owners: list[Tenure]
    ledgers: list[LedgerAnswer]
    contradictions: list[ContradictionItem]
    moves: list[Planned]
    options: list[Option]
    audit: list[AuditItem]


class NodeReport(BaseModel):
    """One node of a database; lengths of time in seconds."""

    url: str
    role: str
    failure: str | None
    lag: float | None
    latency: float | None
    position: str
    breaker: str
    in_use: int | None
    pool_size: int | None
    waiting: int | None


class DatabaseReport(BaseModel):
    """One database as this process sees it."""

    name: str
    engine: str
    journal: bool
    state: str
    nodes: list[NodeReport]
    routed: list[tuple[str, str, int]] = Field(description="node, reason and sessions of the last 15 minutes")


class SagaOrder(BaseModel):
    """What a person orders for one saga."""

    model_config = ConfigDict(extra="forbid")  # a mistyped dry_run must not act

    why: Words = Field(description="kept in the audit trail")
    dry_run: bool = Field(default=False, strict=True, description="only tell what would happen")


class SkipOrder(SagaOrder):
    """One step that was done, or undone, by hand."""

    step: Text
    result: Any = Field(default=None, description="what the step would have returned")


class ResolveOrder(SagaOrder):
    """How a person says that a saga ended."""

    outcome: Literal["completed", "compensated"]


class Many(BaseModel):
    """What a person orders for many sagas; *count* must be their number."""

    model_config = ConfigDict(extra="forbid")

    why: Words = Field(description="kept in the audit trail")
    ids: list[UUID] = Field(min_length=1, max_length=100_000)
    count: Annotated[int, Field(strict=True, ge=1), BeforeValidator(_whole)]


class ManyMoved(Many):
    """Retry or compensate them."""

    action: Literal["retry", "compensate"]


class ManySkipped(Many):
    """Skip one step of each."""

    action: Literal["skip"]
    step: Text
    result: Any = Field(default=None, description="what the step would have returned")


class ManyResolved(Many):
    """End them by a person's word."""

    action: Literal["resolve"]
    outcome: Literal["completed", "compensated"]


class OrderOutcome(BaseModel):
    """What an order did to one saga, or would do."""

    before: Status
    after: Status | None
    done: bool


class BatchBegun(BaseModel):
    """A repair of many sagas has begun."""

    batch: UUID


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

    router = APIRouter(dependencies=[Depends(viewer)], responses=_refusals(401, 403, 404, 422, 503))
    add = router.add_api_route
    add("/overview", made.overview, summary="What is unfinished now")
    add("/activity", made.activity, summary="What all processes did in the last hour")
    add("/sagas", made.sagas, summary="Find sagas")
    add("/sagas/{saga_id}", made.saga, summary="Everything about one saga")
    add("/databases", made.databases, summary="Databases as this process sees them")
    add("/audit", made.audit, summary="What people did")
    add("/repairs/{batch}", made.progress, summary="How far a repair of many sagas is")
    acting = _refusals(400, 409)
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

    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    return app


class _Api:
    def __init__(self, site: Site, pages: Pages) -> None:
        self._site, self._pages = site, pages

    async def overview(self) -> UnfinishedNow:
        """Return how many sagas are unfinished, why some are parked, which are late, and the oldest."""
        found = await self._site.looking.overview()
        # An example may contain a masked value; the message has what differs removed.
        causes = [_plain_cause(one, masking=bool(self._site.mask.names)) for one in found.causes]
        return UnfinishedNow(
            at=found.at,
            unfinished=dict(found.unfinished),
            waiting=found.waiting,
            crashing=found.crashing,
            late=list(found.late),
            causes=causes,
            causes_complete=found.causes_complete,
            oldest=[self._listed(one, found.at) for one in found.oldest],
        )

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
        key: Annotated[Text | None, Query(description="the whole key, or an id")] = None,
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
        now = self._site.now()
        sagas = [self._listed(one, now) for one in page.sagas]
        return SagaList(sagas=sagas, next=page.next, searched_to=page.searched_to)

    async def saga(self, saga_id: UUID) -> SagaExamined:
        """Return a saga with its history, what each ledger says of it, what comes next and what can be done."""
        return self._report(await self._pages.examined(saga_id))

    async def databases(self) -> list[DatabaseReport]:
        """Return roles, lag, pools and reads of each database, from memory."""
        site = self._site
        found = await site.facts()
        return [
            DatabaseReport(
                name=one.name,
                engine=one.engine,
                journal=one.journal,
                state=state(one)[1],
                nodes=[
                    NodeReport(
                        url=node.url,
                        role=node.label,
                        failure=node.failure,
                        lag=node.lag,
                        latency=node.latency,
                        position=node.position,
                        breaker=node.breaker,
                        in_use=None if node.pool is None else node.pool.used,
                        pool_size=None if node.pool is None else node.pool.size,
                        waiting=None if node.pool is None else node.pool.waiting,
                    )
                    for node in one.nodes
                ],
                routed=[(node, why, number) for (node, why), number in one.routed.items()],
            )
            for one in found
        ]

    async def audit(
        self,
        by: Annotated[Text | None, Query()] = None,
        action: Annotated[Literal["retry", "skip", "compensate", "resolve"] | None, Query()] = None,
        saga: Annotated[UUID | None, Query(description="the id of a saga")] = None,
        batch: Annotated[UUID | None, Query()] = None,
        since: Annotated[Moment | None, Query()] = None,
        until: Annotated[Moment | None, Query()] = None,
        after: Annotated[Cursor | None, Query(description="`next` of the page before")] = None,
    ) -> AuditList:
        """Return what people did, one line for each act and for each batch."""
        site = self._site
        wanted = AuditFilter(by=by, action=action, saga_id=saga, batch=batch, since=since, until=until)
        async with site.looking.answering():
            found = await site.sagas.inspector().audit(wanted, after=after)
        return AuditList(
            lines=[
                AuditItem(
                    at=line.at,
                    by=line.by,
                    action=line.action,
                    why=line.why,
                    saga_id=line.saga_id if line.count == 1 else None,
                    saga=line.saga,
                    batch=line.batch,
                    count=line.count,
                    details=site.mask.data(line.details),
                )
                for line in found.lines
            ],
            next=found.next,
        )

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
        return _outcome(await sagas.retry(saga_id, by=person.name, why=asked.why, dry_run=asked.dry_run))

    async def skip_step(
        self, request: Request, saga_id: UUID, asked: Annotated[SkipOrder, Body()]
    ) -> OrderOutcome:
        """Take a step as done by hand, or as undone if the saga is being undone."""
        person, sagas = await self._operator(request), self._site.sagas
        return _outcome(
            await sagas.skip(
                saga_id, asked.step, asked.result, by=person.name, why=asked.why, dry_run=asked.dry_run
            )
        )

    async def compensate_saga(
        self, request: Request, saga_id: UUID, asked: Annotated[SagaOrder, Body()]
    ) -> OrderOutcome:
        """Undo everything that it did, if it is not decided."""
        person, sagas = await self._operator(request), self._site.sagas
        return _outcome(await sagas.compensate(saga_id, by=person.name, why=asked.why, dry_run=asked.dry_run))

    async def resolve_saga(
        self, request: Request, saga_id: UUID, asked: Annotated[ResolveOrder, Body()]
    ) -> OrderOutcome:
        """End it by a person's word; none of its steps runs any more."""
        person, sagas = await self._operator(request), self._site.sagas
        return _outcome(
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

    def _listed(self, saga: SagaSummary, now: datetime) -> ListedSaga:
        return ListedSaga(**self._facts(saga, now, masked_values(saga.error, self._site.mask)))

    def _facts(self, saga: SagaSummary, now: datetime, hidden: frozenset[str]) -> dict[str, Any]:
        coming, then = comes_next(saga, now, self._site.lease)
        return {
            "id": saga.id,
            "name": saga.name,
            "version": saga.version,
            "known": saga.known,
            "key": None if saga.key is None else without(saga.key, hidden),
            "status": saga.status,
            "parked_from": saga.parked_from,
            "step": saga.step,
            "retried": saga.retried,
            "reason": None if saga.reason is None else without(saga.reason, hidden),
            "going_on": without(going_on(saga, now), hidden),
            "next": f"{coming}, {then}" if then else coming,
            "epoch": saga.epoch,
            "created_at": saga.created_at,
            "wake_at": saga.wake_at,
            "deadline": saga.deadline,
            "parked_at": saga.parked_at,
            "finished_at": saga.finished_at,
        }

    def _report(self, found: Examination) -> SagaExamined:
        saga, mask = found.saga, self._site.mask
        hidden = masked_in(found, mask)
        cause = None if saga.error is None else saga.error.parked or saga.error
        trace = None if cause is None else cause.traceback
        return SagaExamined(
            **self._facts(saga, found.at, hidden),
            input=mask.data(decoded(saga.input)),
            facts=None if cause is None else mask.data(cause.facts),
            traceback=None if trace is None else without(trace, hidden),
            late=found.late,
            alike=found.alike,
            removed_at=found.removed_at,
            steps=list(found.steps),
            history=[_hiding(one, hidden) for one in saga.history],
            owners=list(saga.owners),
            ledgers=[
                LedgerAnswer(
                    database=look.database,
                    is_journal=look.is_journal,
                    rows=[
                        LedgerRecord(
                            step=step,
                            state=row.state.value,
                            result=None if row.result is None else mask.data(decoded(row.result)),
                        )
                        for step, row in look.rows.items()
                    ],
                    problem=look.problem,
                )
                for look in found.looks
            ],
            contradictions=[
                ContradictionItem(
                    kind=one.kind.value, step=one.step, database=one.database, detail=without(one.detail, hidden)
                )
                for one in found.contradictions
            ],
            moves=list(found.moves),
            options=list(found.options),
            audit=[
                AuditItem(
                    at=one.at,
                    by=one.by,
                    action=one.action,
                    why=without(one.why, hidden),
                    saga_id=saga.id,
                    saga=saga.name,
                    batch=None,
                    count=1,
                    details=mask.data(one.details),
                )
                for one in saga.audit
            ],
        )


def _plain_cause(cause: Cause, *, masking: bool) -> Cause:
    if not masking:
        return cause
    return replace(cause, example_message=cause.message)


def _hiding(one: Attempt, hidden: frozenset[str]) -> Attempt:
    return one if one.said is None else replace(one, said=without(one.said, hidden))


def _outcome(repairs: tuple[Repair, ...]) -> OrderOutcome:
    (told,) = repairs
    return OrderOutcome(before=told.before, after=told.after, done=told.done)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = ApiProblem.model_json_schema()
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {_PROBLEM: {"schema": schema}}}
        for status in statuses
    }


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    told = ApiProblem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(told.model_dump(), status, dict(headers or {}), media_type=_PROBLEM)


async def _of_access(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NotAllowed)
    headers = {"WWW-Authenticate": "Bearer"} if error.status is HTTPStatus.UNAUTHORIZED else {}
    return _problem(error.status, f"{error.sentence} {error.advice}", headers)


async def _of_journal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, JournalDown)
    return _problem(503, f"The journal does not answer: {error.why}", {"Retry-After": "5"})


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), error.headers)


async def _of_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
    return _problem(422, "; ".join(told))


async def _of_sagas(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PolysagaError | DefinitionError)
    if isinstance(error, UnknownSaga | DefinitionError):  # a saga, or a step of it, that does not exist
        return _problem(404, str(error))
    if isinstance(error, TryAgain):
        return _problem(503, str(error), {"Retry-After": "1"})
    return _problem(422 if isinstance(error, PayloadError) else 409, str(error))


_ANSWERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[JSONResponse]]] = {
    NotAllowed: _of_access,
    JournalDown: _of_journal,
    HTTPException: _of_http,
    RequestValidationError: _of_request,
    PolysagaError: _of_sagas,
    DefinitionError: _of_sagas,
}

"""Routes for people who look after sagas: find, understand, repair. Not for customers.

    app.include_router(operator_routes(sagas, authorize=by_token), prefix="/sagas")

*authorize* is asked before every request and tells who it is: a `Person` with a role, or None. What a person does
goes to the audit trail under that name, never under one from the request. Without *authorize* only this very
machine is served: the client's address and the name it asked for are loopback, and no proxy has passed the
request on. Reading is GET, acting is POST with a JSON body, and refused to pages of other sites.
"""

import inspect
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from polysaga.errors import DefinitionError
from polysaga.fastapi.openapi import problems
from polysaga.sagas import Repair, SagaFilter, Sagas, SagaState, SagaSummary, Status

_FORWARDED = {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"}


class Role(StrEnum):
    """What a person may do."""

    VIEWER = "viewer"  # look
    OPERATOR = "operator"  # look and act


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks; *name* goes to the audit trail."""

    name: str
    role: Role


Authorize: TypeAlias = Callable[[Request], Person | Awaitable[Person | None] | None]


class _Why(BaseModel):
    why: str = Field(min_length=1, max_length=2000, description="kept in the audit trail")
    dry_run: bool = Field(default=False, description="only tell what would happen")


class _Skip(_Why):
    step: str = Field(description="the step that was done by hand")
    result: Any = Field(default=None, description="what the step would have returned")


class _Resolve(_Why):
    outcome: Literal["completed", "compensated"]


class _Wanted(BaseModel):
    """Which sagas; at least one condition."""

    status: list[Status] = []
    name: str | None = None
    error: str | None = None
    older_than: float | None = Field(default=None, description="seconds since the start")


class _Many(BaseModel):
    action: Literal["retry", "compensate"]
    wanted: _Wanted
    limit: int = Field(default=100, ge=1, le=1000)
    why: str = Field(min_length=1, max_length=2000, description="kept in the audit trail")
    dry_run: bool = Field(default=True, description="say false to really do it")


class SagaItem(BaseModel):
    """One saga of a list."""

    id: UUID
    name: str
    version: int
    known: bool
    key: str | None
    status: Status
    reason: str | None
    step: str | None
    epoch: int
    created_at: datetime
    wake_at: datetime | None
    deadline: datetime | None
    finished_at: datetime | None


class SagaItems(BaseModel):
    """Sagas, the newest first; *next* is the `after` of the page behind this one."""

    sagas: list[SagaItem]
    next: str | None


class SagaDetails(SagaItem):
    """One saga with every attempt of every step, and what people did to it."""

    input: str
    error: dict[str, Any] | None
    results: dict[str, str]
    history: list[dict[str, Any]]
    audit: list[dict[str, Any]]


class RepairItem(BaseModel):
    """What a repair did to one saga, or would do; *problem* says why it was refused."""

    saga_id: UUID
    saga: str
    action: str
    before: Status
    after: Status | None
    done: bool
    problem: str | None


def operator_routes(sagas: Sagas, *, authorize: Authorize | None = None, details: bool = True) -> APIRouter:
    """Return the routes; include them with a prefix.

    `details=False` leaves `GET /{saga_id}` to a route of yours.
    """
    viewer, operator = _guard(authorize, Role.VIEWER), _guard(authorize, Role.OPERATOR)
    router = APIRouter(tags=["operations"], dependencies=[Depends(viewer)])
    looking, acting = problems(401, 403, 404, 422, 503), problems(401, 403, 404, 409, 422, 503)
    Operator = Annotated[Person, Depends(operator)]  # noqa: N806 - a type

    @router.get("", summary="Find sagas", responses=looking)
    async def find(
        status: Annotated[list[Status] | None, Query()] = None,
        name: str | None = None,
        key: str | None = None,
        error: Annotated[str | None, Query(description="part of the reason")] = None,
        older_than: Annotated[float | None, Query(description="seconds since the start")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    ) -> SagaItems:
        """Return one page, the newest first."""
        wanted = SagaFilter(status=tuple(status or ()), name=name, key=key, error=error, older_than=older_than)
        page = await sagas.find(wanted, limit=limit, after=after)
        return SagaItems(sagas=[SagaItem.model_validate(_item(saga)) for saga in page.sagas], next=page.next)

    if details:

        @router.get("/{saga_id}", summary="One saga, with everything known of it", responses=looking)
        async def show(saga_id: UUID) -> SagaDetails:
            """Return the saga with its history and its audit trail."""
            return SagaDetails.model_validate(_details(await sagas.get(saga_id)))

    @router.post("/{saga_id}/retry", summary="Let a parked saga go on", responses=acting)
    async def retry(saga_id: UUID, person: Operator, asked: Annotated[_Why, Body()]) -> RepairItem:
        """Go on in the direction it had: when the cause is gone."""
        return _told(await sagas.retry(saga_id, by=person.name, why=asked.why, dry_run=asked.dry_run))

    @router.post("/{saga_id}/skip", summary="Take a step as done by hand", responses=acting)
    async def skip(saga_id: UUID, person: Operator, asked: Annotated[_Skip, Body()]) -> RepairItem:
        """Going back: take it as undone by hand. Then go on."""
        try:
            told = await sagas.skip(
                saga_id, asked.step, asked.result, by=person.name, why=asked.why, dry_run=asked.dry_run
            )
        except DefinitionError as error:  # no such step
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        return _told(told)

    @router.post("/{saga_id}/compensate", summary="Undo a saga that is not decided", responses=acting)
    async def compensate(saga_id: UUID, person: Operator, asked: Annotated[_Why, Body()]) -> RepairItem:
        """Undo everything that it did."""
        return _told(await sagas.compensate(saga_id, by=person.name, why=asked.why, dry_run=asked.dry_run))

    @router.post("/{saga_id}/resolve", summary="End a parked saga by a person's word", responses=acting)
    async def resolve(saga_id: UUID, person: Operator, asked: Annotated[_Resolve, Body()]) -> RepairItem:
        """Nothing of it runs any more."""
        told = await sagas.resolve(saga_id, asked.outcome, by=person.name, why=asked.why, dry_run=asked.dry_run)
        return _told(told)

    @router.post("/repairs", summary="Repair all sagas that a filter finds", responses=acting)
    async def repair(person: Operator, asked: Annotated[_Many, Body()]) -> list[RepairItem]:
        """Each saga tells its own problem; without `"dry_run": false` nothing is changed."""
        given = asked.wanted
        if not given.model_dump(exclude_defaults=True):
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "`wanted` needs at least one condition")
        wanted = SagaFilter(
            status=tuple(given.status), name=given.name, error=given.error, older_than=given.older_than
        )
        act = sagas.retry if asked.action == "retry" else sagas.compensate
        told = await act(wanted, by=person.name, why=asked.why, dry_run=asked.dry_run, limit=asked.limit)
        return [RepairItem(**asdict(one)) for one in told]

    return router


def _guard(authorize: Authorize | None, needed: Role) -> Callable[[Request], Awaitable[Person]]:
    async def guard(request: Request) -> Person:
        if needed is Role.OPERATOR and request.headers.get("sec-fetch-site", "none") not in {
            "none",
            "same-origin",
        }:
            raise HTTPException(HTTPStatus.FORBIDDEN, "Pages of other sites may not act here.")
        if authorize is None:
            if _from_this_machine(request):
                return Person("somebody on this machine", Role.OPERATOR)
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "Only this machine is served: give operator_routes(authorize=...) to let people in.",
            )
        found = authorize(request)
        person = await found if inspect.isawaitable(found) else found
        if person is None:
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED, "Say who you are.", headers={"WWW-Authenticate": "Bearer"}
            )
        if needed is Role.OPERATOR and person.role is not Role.OPERATOR:
            raise HTTPException(HTTPStatus.FORBIDDEN, f"{person.name} may look, not act.")
        return person

    return guard


def _from_this_machine(request: Request) -> bool:
    """Tell whether no other machine can have sent *request*, nor made a browser here send it."""
    if request.client is None or not _FORWARDED.isdisjoint(request.headers.keys()):
        return False
    # The name guards against pages whose own name resolves to this machine.
    return _loopback(request.client.host) and _loopback(request.url.hostname or "")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _item(saga: SagaSummary) -> dict[str, Any]:
    return {**asdict(saga), "reason": saga.reason, "step": saga.step}


def _details(saga: SagaState) -> dict[str, Any]:
    return {**_item(saga), "audit": [asdict(entry) for entry in saga.audit]}


def _told(repairs: tuple[Repair, ...]) -> RepairItem:
    (told,) = repairs
    return RepairItem(**asdict(told))

"""Routes for operators of sagas: find, understand, repair. Not for customers.

    app.include_router(operator_routes(sagas, authorize=by_token), prefix="/sagas")

*authorize* is called before every request and returns a `Person` with a role, or None. The audit trail records a
person's acts under that name, never under a name from the request. Without *authorize* only this machine is
served: the client's address and the requested host name must be loopback, and no proxy may have forwarded the
request. Reading is GET. Acting is POST with a JSON body, and is refused to pages of other sites.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from starlette.exceptions import HTTPException

from polysaga.errors import DefinitionError, PayloadError
from polysaga.fastapi.openapi import problems
from polysaga.people import Authorize, Person, Role, person_of
from polysaga.sagas import Attempt, Repair, SagaFilter, Sagas, SagaState, Status, Tenure
from polysaga.sagas.journal.paging import place

# For the OpenAPI document only; *authorize* inspects the request itself.
_TOKEN = HTTPBearer(
    scheme_name="operator",
    description="Who may look and act. A service that knows no operators asks its own machine for nothing.",
    auto_error=False,
)


def _in_words(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise PydanticCustomError("words", "say it in words, without the character NUL")
    return text


def _cursor(text: str) -> str:
    try:
        place(text, "SagaItems")
    except PayloadError:
        message = "not a cursor of this list: pass `next` as it was given, or leave it out"
        raise PydanticCustomError("cursor", message) from None
    return text


def _given(value: object) -> object:
    if value is None:
        raise PydanticCustomError("null", "leave it out instead of giving null")
    return value


# The JSON schemas say what is accepted as far as JSON Schema can, so clients see no surprises.
Words = Annotated[
    str,
    AfterValidator(_in_words),
    Field(min_length=1, max_length=2000, json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}),
]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]+$")]


def _no_truth(value: object) -> object:
    if isinstance(value, bool):  # Python takes it for a number
        raise PydanticCustomError("number", "write a number")
    return value


# Seconds; less than 100 years.
Age = Annotated[float, Field(ge=0, le=3_000_000_000, allow_inf_nan=False), BeforeValidator(_no_truth)]
Cursor = Annotated[
    str,
    AfterValidator(_cursor),
    Field(json_schema_extra={"pattern": r"^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)~[0-9a-fA-F-]{36}$"}),
]


class _NotNull:
    """Removes null from a JSON schema: an absent value is omitted, not null."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        given: list[JsonSchemaValue] = [one for one in handler(schema)["anyOf"] if one != {"type": "null"}]
        return given[0]


_NOT_NULL = _NotNull()


class RepairRequest(BaseModel):
    """What a person orders, and why."""

    model_config = ConfigDict(extra="forbid")  # a mistyped dry_run must not act

    why: Words = Field(description="kept in the audit trail")
    dry_run: bool = Field(default=False, strict=True, description="only tell what would happen")


class SkipRequest(RepairRequest):
    """One step that was done, or undone, by hand."""

    step: Name = Field(description="the step that was done by hand")
    result: Any = Field(default=None, description="what the step would have returned")


class ResolveRequest(RepairRequest):
    """How a person says that a saga ended."""

    outcome: Literal["completed", "compensated"]


class SagaSearch(BaseModel):
    """Which sagas; at least one condition."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    status: list[Status] = Field(default_factory=list, min_length=1)
    name: Annotated[Name | None, _NOT_NULL] = None
    error: Annotated[Name | None, _NOT_NULL] = Field(default=None, description="part of the reason")
    older_than: Annotated[Age | None, _NOT_NULL] = Field(default=None, description="seconds since the start")

    _no_nulls = field_validator("*", mode="before")(_given)

    @model_validator(mode="after")
    def _not_all(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("empty", "give at least one condition")
        return self


class SagaQuery(BaseModel):
    """Which sagas a list shows, and which page of it."""

    status: Annotated[list[Status] | None, _NOT_NULL] = None
    name: Annotated[Name | None, _NOT_NULL] = None
    key: Annotated[Name | None, _NOT_NULL] = None
    error: Annotated[Name | None, _NOT_NULL] = Field(default=None, description="part of the reason")
    older_than: Annotated[Age | None, _NOT_NULL] = Field(default=None, description="seconds since the start")
    limit: int = Field(default=50, ge=1, le=1000)
    after: Annotated[Cursor | None, _NOT_NULL] = Field(default=None, description="`next` of the page before")


class BulkRepair(BaseModel):
    """What a person orders for all sagas that are found, and why."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["retry", "compensate"]
    wanted: SagaSearch
    limit: int = Field(default=100, strict=True, ge=1, le=1000)
    why: Words = Field(description="kept in the audit trail")
    dry_run: bool = Field(default=True, strict=True, description="say false to really do it")


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
    parked_at: datetime | None


class SagaItems(BaseModel):
    """Sagas, the newest first; *next* is the `after` of the page behind this one.

    If *searched_to* is not null, the search has come so far, and *next* goes on from there.
    """

    sagas: list[SagaItem]
    next: str | None
    searched_to: datetime | None


class SagaDetails(SagaItem):
    """One saga with every attempt of every step, and what people did to it."""

    input: str
    error: dict[str, Any] | None
    results: dict[str, str]
    history: list[Attempt]
    owners: list[Tenure]
    trace_id: str | None
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
    checks = [Depends(_TOKEN), Depends(viewer), Depends(_refuse_unknown)]
    router = APIRouter(generate_unique_id_function=_named, tags=["operations"], dependencies=checks)
    looking, acting = problems(401, 403, 404, 422, 503), problems(401, 403, 404, 409, 422, 503)
    Operator = Annotated[Person, Depends(operator)]  # noqa: N806 - a type

    @router.get("", summary="Find sagas", responses=looking, dependencies=[Depends(_refuse_repeated)])
    async def find_sagas(asked: Annotated[SagaQuery, Query()]) -> SagaItems:
        """Return one page, the newest first."""
        wanted = SagaFilter(
            status=tuple(asked.status or ()),
            name=asked.name,
            key=asked.key,
            error=asked.error,
            older_than=asked.older_than,
        )
        page = await sagas.find(wanted, limit=asked.limit, after=asked.after)
        items = [SagaItem.model_validate(saga.as_dict()) for saga in page.sagas]
        return SagaItems(sagas=items, next=page.next, searched_to=page.searched_to)

    if details:

        @router.get("/{saga_id}", summary="One saga, with everything known of it", responses=looking)
        async def show_details_of_saga(saga_id: UUID) -> SagaDetails:
            """Return the saga with its history and its audit trail."""
            return SagaDetails.model_validate(_details(await sagas.get(saga_id)))

    @router.post("/{saga_id}/retry", summary="Let a parked saga go on", responses=acting)
    async def retry_saga(saga_id: UUID, person: Operator, asked: Annotated[RepairRequest, Body()]) -> RepairItem:
        """Resume the saga in the direction that it had, when the cause is gone."""
        return _told(await sagas.retry(saga_id, by=person.name, why=asked.why, dry_run=asked.dry_run))

    @router.post("/{saga_id}/skip", summary="Take a step as done by hand", responses=acting)
    async def skip_step(saga_id: UUID, person: Operator, asked: Annotated[SkipRequest, Body()]) -> RepairItem:
        """Take the step as done by hand, or as undone if the saga is being undone. Then go on."""
        try:
            told = await sagas.skip(
                saga_id, asked.step, asked.result, by=person.name, why=asked.why, dry_run=asked.dry_run
            )
        except DefinitionError as error:  # no such step
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        return _told(told)

    @router.post("/{saga_id}/compensate", summary="Undo a saga that is not decided", responses=acting)
    async def compensate_saga(
        saga_id: UUID, person: Operator, asked: Annotated[RepairRequest, Body()]
    ) -> RepairItem:
        """Undo everything that it did."""
        return _told(await sagas.compensate(saga_id, by=person.name, why=asked.why, dry_run=asked.dry_run))

    @router.post("/{saga_id}/resolve", summary="End a parked saga by a person's word", responses=acting)
    async def resolve_saga(
        saga_id: UUID, person: Operator, asked: Annotated[ResolveRequest, Body()]
    ) -> RepairItem:
        """End the saga as given; none of its steps runs any more."""
        told = await sagas.resolve(saga_id, asked.outcome, by=person.name, why=asked.why, dry_run=asked.dry_run)
        return _told(told)

    @router.post("/repairs", summary="Repair all sagas that a filter finds", responses=acting)
    async def repair_sagas(person: Operator, asked: Annotated[BulkRepair, Body()]) -> list[RepairItem]:
        """Repair each saga, or say why not; without `"dry_run": false` nothing is changed."""
        given = asked.wanted
        wanted = SagaFilter(
            status=tuple(given.status), name=given.name, error=given.error, older_than=given.older_than
        )
        act = sagas.retry if asked.action == "retry" else sagas.compensate
        told = await act(wanted, by=person.name, why=asked.why, dry_run=asked.dry_run, limit=asked.limit)
        return [RepairItem(**asdict(one)) for one in told]

    if authorize is None:
        for route in router.routes:
            if isinstance(route, APIRoute):
                route.openapi_extra = {"security": [{}]}  # no credentials: only this machine is served
    return router


def _refuse_unknown(request: Request) -> None:
    """Refuse parameters that the address does not have.

    A misspelt condition would find all sagas, and `?dry_run=true` beside a body would act.
    """
    # With the dependencies of `include_router`, which FastAPI keeps apart from the route.
    route = request.scope.get("fastapi", {}).get("effective_route_context", request.scope["route"])
    known = set(_parameters(route.dependant))
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        there = "send what you ask for as JSON, in the body" if request.method == "POST" else "leave it out"
        said = f"there is no such parameter; {there}"
        raise RequestValidationError(
            [{"type": "unknown", "loc": ("query", name), "msg": said, "input": None} for name in unknown]
        )


def _parameters(dependant: Dependant) -> Iterator[str]:
    """Yield the names of all query parameters of a route and of what it depends on."""
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (field.alias or name for name, field in kind.model_fields.items())
        else:
            yield field.alias
    for inner in dependant.dependencies:
        yield from _parameters(inner)


def _refuse_repeated(request: Request) -> None:
    """Refuse a condition that came twice, unless it takes several values: only the last would count."""
    counted = Counter(name for name, _ in request.query_params.multi_items() if name != "status")
    twice = [name for name, times in counted.items() if times > 1]
    if twice:
        said = "it came twice, and takes one value; send it once"
        raise RequestValidationError(
            [{"type": "repeated", "loc": ("query", name), "msg": said, "input": None} for name in twice]
        )


def _named(route: APIRoute) -> str:
    return route.name


def _guard(authorize: Authorize | None, needed: Role) -> Callable[[Request], Awaitable[Person]]:
    async def guard(request: Request) -> Person:
        if needed is Role.OPERATOR and request.headers.get("sec-fetch-site", "none") not in {
            "none",
            "same-origin",
        }:
            raise HTTPException(HTTPStatus.FORBIDDEN, "Pages of other sites may not act here.")
        person = await person_of(request, authorize)
        if person is None and authorize is None:
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "Operators are served on the service's own machine only, until it is set up to know them.",
            )
        if person is None:
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED, "Say who you are.", headers={"WWW-Authenticate": "Bearer"}
            )
        if needed is Role.OPERATOR and person.role is not Role.OPERATOR:
            raise HTTPException(HTTPStatus.FORBIDDEN, f"{person.name} may look, not act.")
        return person

    return guard


def _details(saga: SagaState) -> dict[str, Any]:
    return {**saga.as_dict(), "audit": [asdict(entry) for entry in saga.audit]}


def _told(repairs: tuple[Repair, ...]) -> RepairItem:
    (told,) = repairs
    return RepairItem(**asdict(told))

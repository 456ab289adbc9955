"""The dashboard as an application that a program mounts.

    app.mount("/dashboard", dashboard(sagas, databases, authorize=who_is_it))

It serves any FastAPI or Starlette application, below any prefix, and behind a proxy whose prefix the server knows
(`uvicorn --root-path`). Several may run in one process.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from polysaga.clock import Clock
from polysaga.dashboard import words
from polysaga.dashboard.access import Door, NotAllowed
from polysaga.dashboard.acts import Acts
from polysaga.dashboard.api.routes import api
from polysaga.dashboard.headers import ALWAYS, SafeHeaders
from polysaga.dashboard.live import Live
from polysaga.dashboard.looking import JournalDown, Looking
from polysaga.dashboard.masking import Mask, secret_names
from polysaga.dashboard.pages import Pages
from polysaga.dashboard.recent import Recent
from polysaga.dashboard.screens.declared import declared
from polysaga.dashboard.screens.nodes import strip
from polysaga.dashboard.site import Site, base_of, own_path
from polysaga.errors import ConfigurationError, PayloadError, UnknownSaga
from polysaga.events import Events
from polysaga.people import Authorize, Role
from polysaga.routing import Databases
from polysaga.sagas import Overview, Sagas, Status


def dashboard(
    sagas: Sagas,
    databases: Databases,
    *,
    authorize: Authorize | None = None,
    mask: Collection[str] = (),
    trace: str | None = None,
    searches: Mapping[str, str] | None = None,
    events: Events | None = None,
    title: str | None = None,
    clock: Clock | None = None,
) -> Starlette:
    """Return the dashboard of *sagas*, to be mounted; the databases must be open when a page is asked for.

    *authorize* gets each request and returns a `Person`, or None; it may be async. Without it only this machine is
    served, and every request from elsewhere is refused. Viewers look, operators act; the audit trail has each act
    under the person's name.

    The values of fields named in *mask*, and of fields of the type `SecretStr`, never leave the server. *trace* is
    the address of a trace with `{trace_id}` in it. *searches* are saved searches: a name, and the query of a list
    of sagas. *events* are those that the program emits: the pages show the latest. *title* stands beside the logo.
    """
    if isinstance(mask, str):
        raise ConfigurationError(f"dashboard(mask={mask!r}) takes names: write mask=({mask!r},)")
    if trace is not None and "{trace_id}" not in trace:
        raise ConfigurationError(f"dashboard(trace={trace!r}) needs {{trace_id}} in the address")
    clock, recent = clock or Clock(), Recent(clock)
    if events is not None:
        events.subscribe(recent)
        recent.subscribed = True
    adapters = [
        adapter for saga in sagas.declared for adapter in (saga.input, *(one.result for one in saga.steps))
    ]
    site = Site(
        sagas=sagas,
        databases=databases,
        door=Door(authorize),
        mask=Mask({*mask, *secret_names(adapters)}),
        program=declared(sagas.declared),
        looking=Looking(sagas, clock),
        recent=recent,
        trace=trace,
        searches=dict(searches or {}),
        title=title or sagas.journal.name,
        clock=clock,
    )
    pages, refusals = Pages(site), _Refusals(site)
    acts, live = Acts(site, pages), Live(site, pages)
    return Starlette(
        routes=[
            Route("/", pages.overview),
            Route("/sagas", pages.sagas),
            Route("/sagas/{saga_id:uuid}", pages.saga),
            Route("/sagas/{saga_id:uuid}/{action}", acts.saga, methods=["POST"]),
            Route("/repairs", acts.confirm, methods=["POST"]),
            Route("/repairs/begin", acts.begin, methods=["POST"]),
            Route("/repairs/{batch:uuid}", acts.progress),
            Route("/repairs/{batch:uuid}/stop", acts.stop, methods=["POST"]),
            Route("/databases", pages.databases),
            Route("/audit", pages.audit),
            Mount("/api", api(site, pages)),
            Route("/live/{topic:path}", live.stream),
            Route("/static/{hash}/{name}", site.statics.answer),
        ],
        middleware=[Middleware(SafeHeaders)],
        exception_handlers={
            NotAllowed: refusals.not_allowed,
            JournalDown: refusals.journal_down,
            UnknownSaga: refusals.unknown_saga,
            HTTPException: refusals.of_http,
            PayloadError: refusals.of_value,
            Exception: refusals.unexpected,
        },
    )


class _Refusals:
    """The pages that say no."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def not_allowed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, NotAllowed)
        viewer = error.person is not None and error.person.role is Role.VIEWER
        referrer = request.headers.get("referer", "")
        answer = self._say(
            request,
            error.status,
            error.sentence,
            error.advice,
            person=error.person,
            asked_for=getattr(request.state, "asked_for", ()),
            viewer=viewer,
            back=own_path(request, referrer),
            back_text="Back to the page",
        )
        if error.status is HTTPStatus.UNAUTHORIZED:
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    async def unknown_saga(self, request: Request, error: Exception) -> Response:
        advice = (
            "It may have been removed, after it had been at rest for the retention time; what people did to it is "
            "still in the audit trail. Or its start was rolled back."
        )
        return self._say(request, HTTPStatus.NOT_FOUND, "There is no saga with this id.", advice)

    async def of_value(self, request: Request, error: Exception) -> Response:
        return self._say(request, HTTPStatus.UNPROCESSABLE_ENTITY, "The request was refused.", str(error))

    async def of_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if error.status_code in {301, 302, 303, 307, 308}:  # the program's `authorize` sends people to sign in
            return Response(status_code=error.status_code, headers=headers)
        sentence, advice = {
            HTTPStatus.NOT_FOUND: ("There is no such page.", "The links at the top lead to all there are."),
            HTTPStatus.METHOD_NOT_ALLOWED: (
                "This address takes forms only.",
                "Nothing was changed. Open the saga or the list, and use the form there.",
            ),
        }.get(HTTPStatus(error.status_code), ("The request was refused.", str(error.detail)))
        more = {}
        if request.method == "POST":  # the form is still filled in there
            more = {"back": own_path(request, request.headers.get("referer", "")), "back_text": "Back to the page"}
        answer = self._say(request, HTTPStatus(error.status_code), sentence, advice, **more)
        answer.headers.update(headers)
        return answer

    async def journal_down(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, JournalDown)
        site = self._site
        # What is known of the journal's own database may be some seconds old.
        databases = [
            replace(one, refusal=error.why) if one.journal and not one.replicated else one
            for one in await site.facts()
        ]
        answer = site.page(
            request,
            "down.html",
            visitor=await site.door.visitor(request),
            here="Overview",
            status=503,
            since=words.clock(error.since),
            why=error.why,
            last=_last(error.last),
            strip=strip(databases),
            **site.strip_data(),
        )
        answer.headers["Retry-After"] = "5"
        return answer

    async def unexpected(self, request: Request, error: Exception) -> Response:
        # Answered outside of the middleware; the server logs the error.
        return PlainTextResponse("The dashboard failed; the log of the program says why.", 500, headers=ALWAYS)

    def _say(self, request: Request, status: HTTPStatus, sentence: str, advice: str, **more: Any) -> Response:
        data = {
            "asked_for": (),
            "viewer": False,
            "back": f"{base_of(request)}/",
            "back_text": "To the overview",
            "linked": status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN},
        }
        return self._site.page(
            request, "denied.html", status=status, sentence=sentence, advice=advice, **{**data, **more}
        )


def _last(found: Overview | None) -> str:
    if found is None:
        return ""
    order = (Status.NEEDS_ATTENTION, Status.RUNNING, Status.COMPLETING, Status.COMPENSATING)
    numbers = {status: found.unfinished.get(status, 0) for status in order}
    parked = numbers.pop(Status.NEEDS_ATTENTION)
    told = [f"{parked:,} {words.verb(parked, 'needs', 'need')} attention"]
    told += [f"{number:,} {words.STATUS[status.value]}" for status, number in numbers.items()]
    return f"Last seen at {words.clock(found.at)}: {', '.join(told)}."


__all__ = ["dashboard"]

"""What all pages of one dashboard share, and how a page becomes an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any
from urllib.parse import urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from polysaga.clock import Clock
from polysaga.dashboard import words
from polysaga.dashboard.access import Door, Visitor, keep
from polysaga.dashboard.looking import Looking
from polysaga.dashboard.marks import Marks, combined
from polysaga.dashboard.masking import Mask
from polysaga.dashboard.readings import databases_of, unwatched
from polysaga.dashboard.recent import Recent
from polysaga.dashboard.screens.declared import DeclaredSaga
from polysaga.dashboard.screens.nodes import DatabaseFacts
from polysaga.dashboard.statics import Statics
from polysaga.people import Person
from polysaga.routing import Databases
from polysaga.sagas import Overview, Sagas, Status

NAV = (("/", "Overview"), ("/sagas", "Sagas"), ("/databases", "Databases"), ("/audit", "Audit"))
_WORDS = {
    **words.STATUS,
    "waiting": "waiting",
    "late": "late",
    "blocked": "blocked",
    "never": "not run",
    "done": "done",
    "gone": "no answer",
    "stuck": "stuck",
    "active": "under way",
}

_DONE = {
    "retry": "Done: it is due at once, and the first process that ticks goes on with it.",
    "skip": "Done: the step counts as done by hand, and the first process that ticks goes on.",
    "compensate": "Done: you had it undone.",
    "resolve": "Done: it is at rest by your word.",
}


@cache
def environment() -> Environment:
    """Return the templates of all dashboards of this process; every text in them is escaped.

    They are compiled at once: the first viewer of a page would hold up the whole service for that time.
    """
    made = Environment(
        loader=PackageLoader("polysaga.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=words.number, clock=words.clock, tail=words.tail)
    made.globals.update(words=_WORDS, nav=NAV, version=version("polysaga"))
    for name in made.list_templates():
        made.get_template(name)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One dashboard."""

    sagas: Sagas
    databases: Databases
    door: Door
    mask: Mask
    program: tuple[DeclaredSaga, ...]
    looking: Looking
    recent: Recent
    trace: str | None
    searches: Mapping[str, str]
    title: str
    clock: Clock
    statics: Statics = field(default_factory=Statics)
    templates: Environment = field(default_factory=environment)

    @property
    def journal(self) -> str:
        """The name of the journal's database."""
        return self.sagas.journal.name

    @property
    def lease(self) -> float:
        """Seconds that a claim lasts without renewal."""
        return self.sagas.settings.lease

    def now(self) -> datetime:
        """Return the time of this process."""
        return self.clock.now()

    async def facts(self) -> tuple[DatabaseFacts, ...]:
        """Return what this process knows of its databases; those without a monitor are asked for an answer."""
        silent = await self.looking.silent(unwatched(self.databases))
        return databases_of(self.databases, self.journal, self.clock, silent)

    def page(
        self,
        request: Request,
        template: str,
        *,
        visitor: Visitor | None = None,
        person: Person | None = None,
        here: str = "",
        live: str | None = None,
        seen: Marks | None = None,
        status: int = 200,
        json: str | None = None,
        **data: Any,
    ) -> Response:
        """Answer with a page; *live* names its stream, *seen* are its parts, *json* is its address in the API."""
        base = base_of(request)
        streams = live is not None and request.query_params.get("live") != "off"
        overview = self.looking.last
        shared: dict[str, Any] = {
            "base": base,
            "static": {name: f"{base}{path}" for name, path in self.statics.paths.items()},
            "here": here,
            "title": self.title,
            "journal": self.journal,
            "person": visitor.person if visitor is not None else person,
            "may_act": visitor is not None and visitor.may_act,
            "token": "" if visitor is None else visitor.token,
            "parked": 0 if overview is None else parked_in(overview),
            "as_of": words.clock(self.now()),
            "live": f"{base}/live/{live}" if streams else "",
            "mark": combined(seen) if seen is not None else "",
            "refresh": str(request.url.path) + (f"?{request.url.query}" if request.url.query else ""),
            "paused": _with_live(request, "off"),
            "resumed": _with_live(request, None) if live is not None and not streams else "",
            "json": "" if json is None else f"{base}/api{json}",
            # A code, not a text: an address must not put words into the dashboard's mouth.
            "notice": _DONE.get(request.query_params.get("done", ""), ""),
            "problem": "",
            "source": "",
        }
        text = self.templates.get_template(template).render({**shared, **data})
        answer = HTMLResponse(text, status)
        if visitor is not None:
            keep(answer, visitor, request)
        return answer

    def strip_data(self) -> dict[str, Any]:
        """Return what the panel of events needs."""
        note = "of this process, from memory; repeated ones are one line"
        lines: Sequence[Any] = self.recent.lines[:12]
        return {"events": lines, "events_note": note, "listening": self.recent.subscribed}


def base_of(request: Request) -> str:
    """Return the address below which the dashboard is, without a slash at its end."""
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/")


def back_to(request: Request, path: str, done: str = "") -> Response:
    """Answer a form: the browser opens *path* of the dashboard."""
    query = f"?{urlencode({'done': done})}" if done else ""
    return RedirectResponse(f"{base_of(request)}{path}{query}", 303)


def own_path(request: Request, address: str) -> str:
    """Return the path and query of *address* if it is a page of this dashboard, else the first page."""
    base = base_of(request)
    try:
        parts = urlsplit(address)
    except ValueError:  # no address
        return f"{base}/"
    own = parts.netloc in {"", request.headers.get("host", "")} and parts.path.startswith(f"{base}/")
    if not own:
        return f"{base}/"
    return parts.path + (f"?{parts.query}" if parts.query else "")


def parked_in(overview: Overview) -> int:
    """Return how many sagas are parked."""
    return overview.unfinished.get(Status.NEEDS_ATTENTION, 0)


def _with_live(request: Request, value: str | None) -> str:
    pairs = [(name, one) for name, one in request.query_params.multi_items() if name not in {"live", "done"}]
    if value is not None:
        pairs.append(("live", value))
    query = urlencode(pairs)
    return f"{request.url.path}?{query}" if query else request.url.path


LEGEND = (
    (
        Markup(
            '<rect class="b-done" x="1" y="1" width="20" height="12" rx="2"/>'
            '<path class="b-mark" d="M8 7L10 9.2L14 4.8"/>'
        ),
        "done",
        "done",
    ),
    (
        Markup(
            '<rect class="b-failed" x="1" y="1" width="20" height="12" rx="2" stroke-width="1.6"/>'
            '<path class="b-x" d="M8.4 4.4L13.6 9.6M13.6 4.4L8.4 9.6"/>'
        ),
        "failed",
        "failed",
    ),
    (
        Markup(
            '<rect class="b-active" x="1" y="1" width="20" height="12" rx="2" stroke-width="1.6" '
            'stroke-dasharray="3 2"/>'
        ),
        "under way",
        "active",
    ),
    (Markup('<rect x="0" y="0" width="22" height="14" fill="url(#hatch)"/>'), "waits to try again", "wait"),
    (Markup('<rect x="0" y="0" width="22" height="14" fill="url(#dots)"/>'), "put aside, or parked", "aside"),
    (
        Markup(
            '<rect class="b-undone" x="1" y="1" width="20" height="12" rx="2"/>'
            '<path class="b-mark" d="M12.5 4L9 7L12.5 10"/>'
        ),
        "undone",
        "undone",
    ),
    (
        Markup(
            '<rect class="b-null" x="1" y="1" width="20" height="12" rx="2" stroke-width="1.6"/>'
            '<path class="b-slash" d="M8 10L14 4"/>'
        ),
        "blocked: never happens",
        "null",
    ),
    (
        Markup('<rect class="b-plan" x="1" y="1" width="20" height="12" rx="2" stroke-width="1.6"/>'),
        "comes next, no scale",
        "plan",
    ),
)

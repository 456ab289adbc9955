"""Forms that act: on one saga, and on many. POST only; the answer is a redirect to where the outcome is seen.

A form on one saga carries the status and the claim that the person saw. If the saga has moved on since, nothing
is changed and the page comes again. A form on many carries the number that the person typed: if another number
matches now, nothing is changed and the question comes again.
"""

import json
from collections import Counter
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Literal, cast
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from polysaga.dashboard import filters
from polysaga.dashboard.access import Visitor
from polysaga.dashboard.filters import uuid_in
from polysaga.dashboard.forms import Form, asked_for, form_of
from polysaga.dashboard.marks import of_batch
from polysaga.dashboard.pages import Pages
from polysaga.dashboard.screens.repairs import ACTIONS, confirm_screen, progress_screen
from polysaga.dashboard.site import Site, back_to
from polysaga.errors import DatabaseUnavailable, DefinitionError, PayloadError, PolysagaError, TryAgain
from polysaga.sagas import Frozen, SagaFilter, SagaSummary, Status

_TRIED = 200  # sagas of a dry run
_LONGEST = 2000  # characters of a reason
Action = Literal["retry", "skip", "compensate", "resolve"]


class Acts:
    """The forms of one dashboard."""

    def __init__(self, site: Site, pages: Pages) -> None:
        self._site, self._pages = site, pages

    async def saga(self, request: Request) -> Response:
        """Carry out one order on one saga."""
        saga_id, action = request.path_params["saga_id"], request.path_params["action"]
        if action not in ACTIONS:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        form = await form_of(request)
        request.state.asked_for = [*asked_for(form, action), ("Saga", str(saga_id))]
        visitor = await self._site.door.actor(request, form)
        async with self._site.looking.answering():
            saga = await self._site.sagas.get(saga_id)
        if form.get("seen") != f"{saga.status.value}/{saga.epoch}":
            told = "It has moved on since you looked, so nothing was changed. This is how it is now."
            return await self._again(request, visitor, saga_id, form, HTTPStatus.CONFLICT, told)
        try:
            await self._order(saga_id, action, form, visitor)
        except (PolysagaError, DefinitionError, ValueError) as error:
            status, told = _refusal(error)
            # The reply to a commit may be what was lost.
            certain = not isinstance(error, DatabaseUnavailable)
            told = f"{'Nothing was changed' if certain else 'Look whether anything was changed'}: {told}"
            return await self._again(request, visitor, saga_id, form, status, told)
        return back_to(request, f"/sagas/{saga_id}", done=action)

    async def _order(self, saga_id: UUID, action: str, form: Form, visitor: Visitor) -> None:
        sagas, by, why = self._site.sagas, visitor.person.name, _why(form)
        match action:
            case "retry":
                await sagas.retry(saga_id, by=by, why=why)
            case "skip":
                await sagas.skip(saga_id, form.text("step"), _result(form), by=by, why=why)
            case "compensate":
                await sagas.compensate(saga_id, by=by, why=why)
            case _:
                await sagas.resolve(saga_id, _outcome(form), by=by, why=why)

    async def _again(
        self, request: Request, visitor: Visitor, saga_id: UUID, form: Form, status: HTTPStatus, told: str
    ) -> Response:
        screen, _ = await self._pages.screen(saga_id)
        typed = {
            "action": request.path_params["action"],
            "why": form.get("why", "")[:_LONGEST],
            "result": form.get("result", "null"),
        }
        return self._pages.answer_saga(request, visitor, screen, typed=typed, problem=told, status=int(status))

    async def confirm(self, request: Request) -> Response:
        """Ask before many sagas are repaired: what would happen, to how many."""
        form = await form_of(request)
        request.state.asked_for = asked_for(form, "")
        visitor = await self._site.door.actor(request, form)
        return await self._ask(request, visitor, form)

    async def begin(self, request: Request) -> Response:
        """Begin to repair many sagas, if their number is still the one that was typed."""
        form = await form_of(request)
        request.state.asked_for = asked_for(form, "")
        visitor, action = await self._site.door.actor(request, form), _action(form)
        async with self._site.looking.answering(60.0):  # up to 100,000 are found page by page
            frozen = await self._frozen(form)
        typed = form.text("count").replace(",", "").replace(" ", "")
        if typed != str(len(frozen.ids)):
            given = form.text("count")[:20] or "no number"
            told = f"You typed {given}, and {len(frozen.ids):,} match now. Nothing was changed."
            return await self._ask(request, visitor, form, told=told, status=HTTPStatus.CONFLICT)
        try:
            batch = self._site.sagas.begin_batch(
                cast(Action, action),
                frozen.ids,
                by=visitor.person.name,
                why=_why(form),
                step=form.text("step") or None if action == "skip" else None,
                result=_result(form) if action == "skip" else None,
                outcome=_outcome(form) if action == "resolve" else None,
            )
        except (PolysagaError, DefinitionError, ValueError) as error:
            status, problem = _refusal(error)
            return await self._ask(request, visitor, form, told=f"Nothing was changed: {problem}", status=status)
        return back_to(request, f"/repairs/{batch}")

    async def stop(self, request: Request) -> Response:
        """Stop a batch; the sagas that it has not come to stay as they are."""
        form, batch_id = await form_of(request), request.path_params["batch"]
        request.state.asked_for = [("Action", "stop a repair of many sagas"), ("Batch", str(batch_id))]
        visitor = await self._site.door.actor(request, form)
        # One that has ended meanwhile, or works elsewhere, says so on its page.
        self._site.sagas.stop_batch(batch_id, by=visitor.person.name)
        return back_to(request, f"/repairs/{batch_id}")

    async def progress(self, request: Request) -> Response:
        """Show how far a batch is."""
        site, batch_id = self._site, request.path_params["batch"]
        visitor = await site.door.visitor(request)
        overview = await site.looking.overview()
        async with site.looking.answering():
            batch = await site.sagas.batch(batch_id)
        if batch is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        fates = await site.looking.fates(batch_id)
        screen = progress_screen(batch, fates, site.now(), mask=site.mask)
        return site.page(
            request,
            "progress.html",
            visitor=visitor,
            here="Sagas",
            live=f"repairs/{batch_id}" if screen.moves else None,
            seen=of_batch(batch, fates, overview),
            json=f"/repairs/{batch_id}",
            b=screen,
        )

    async def _ask(
        self,
        request: Request,
        visitor: Visitor,
        form: Form,
        *,
        told: str = "",
        status: HTTPStatus = HTTPStatus.OK,
    ) -> Response:
        site, action = self._site, _action(form)
        await site.looking.overview()
        async with site.looking.answering(60.0):
            frozen = await self._frozen(form)
            found = await self._summaries(frozen)
        search = filters.read(form.get("query", ""))
        step, steps = self._steps(form, found) if action == "skip" else ("", [])
        outcome = self._resolution(form, found) if action == "resolve" else ""
        async with site.looking.answering(60.0):
            tried = await self._try_out(action, found, step, _given(form), outcome) if found else ()
        screen = confirm_screen(
            action,
            frozen.ids,
            tried,
            complete=frozen.complete,
            now=site.now(),
            found=found,
            mask=site.mask,
            steps=steps,
            step=step,
            outcome=outcome,
        )
        matching = _is_for_all(form)
        return site.page(
            request,
            "confirm.html",
            visitor=visitor,
            here="Sagas",
            status=int(status),
            c=screen,
            problem=told,
            asked=filters.sentence(search, screen.told_number) if matching else screen.chosen,
            which="matching" if matching else "chosen",
            query=search.query(after=None),
            ids=[] if matching else frozen.ids,
            why=form.get("why", "")[:_LONGEST],
            result=form.get("result", "null"),
        )

    async def _frozen(self, form: Form) -> Frozen:
        """Return the sagas that the form is about: those chosen, or all that match."""
        if _is_for_all(form):
            search = filters.read(form.get("query", ""))
            if search.problems:
                raise HTTPException(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    f"Nothing was changed: not all of the search can be used. {' '.join(search.problems)} "
                    "Filter the list anew, and act on what it shows.",
                )
            if not search.narrow:
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "Filter by something before you act on all.")
            wanted = search.selects(self._site.now())
            if not wanted.statuses:  # left to itself `freeze` takes the parked ones only
                wanted = replace(wanted, status=[status for status in Status if not status.final])
            return await self._site.sagas.freeze(wanted)
        chosen = dict.fromkeys(one for text in form.all("id") if (one := uuid_in(text)) is not None)
        if not chosen:
            told = "Choose sagas first: tick the boxes of their rows, or choose all that match."
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, told)
        return Frozen(tuple(chosen), complete=True)

    async def _summaries(self, frozen: Frozen) -> tuple[SagaSummary, ...]:
        ids = frozen.ids[:_TRIED]
        if not ids:
            return ()
        return (await self._site.sagas.find(SagaFilter(ids=ids), limit=len(ids))).sagas

    async def _try_out(
        self, action: str, found: tuple[SagaSummary, ...], step: str, result: Any, outcome: str
    ) -> Any:
        """Return what would happen to the sagas."""
        sagas = self._site.sagas
        wanted = SagaFilter(ids=[saga.id for saga in found], status=tuple(Status))
        more: dict[str, Any] = {"by": "a dry run", "why": "a dry run", "dry_run": True, "limit": len(found)}
        match action:
            case "retry":
                return await sagas.retry(wanted, **more)
            case "skip":
                return await sagas.skip(wanted, step, result, **more)
            case "compensate":
                return await sagas.compensate(wanted, **more)
        return await sagas.resolve(wanted, cast(Literal["completed", "compensated"], outcome), **more)

    def _steps(self, form: Form, found: tuple[SagaSummary, ...]) -> tuple[str, list[str]]:
        """Return the step to skip, by default the one that most have trouble with, and those to choose from."""
        names = {saga.name for saga in found}
        steps = [
            step.name
            for one in self._site.program
            if one.name in names
            for step in one.steps
            if step.kind != "pivot"
        ]
        common = Counter(saga.step for saga in found if saga.step in steps).most_common(1)
        step = form.text("step") or (common[0][0] if common else None) or (steps[0] if steps else "")
        return step, list(dict.fromkeys([*steps, *([step] if step else [])]))

    def _resolution(self, form: Form, found: tuple[SagaSummary, ...]) -> str:
        """Return the outcome to resolve as, by default the one that most are on the way to."""
        if form.text("outcome") in {"completed", "compensated"}:
            return form.text("outcome")
        going = [saga.parked_from or saga.status for saga in found]
        forward = sum(1 for status in going if status is Status.COMPLETING)
        return "completed" if forward * 2 > len(going) else "compensated"


def _is_for_all(form: Form) -> bool:
    """Return whether the form is about all that match: a list's form is, unless a box is ticked."""
    which = form.get("which")
    return which == "matching" if which else "id" not in form and bool(form.get("query"))


def _action(form: Form) -> str:
    if form.get("action") not in ACTIONS:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "There is no such action.")
    return form["action"]


def _why(form: Form) -> str:
    why = form.text("why")
    if not why:
        raise ValueError("say why; it is kept in the audit trail.")
    if len(why) > _LONGEST:
        raise ValueError(f"the reason has more than {_LONGEST:,} characters; shorten it.")
    return why


def _result(form: Form) -> Any:
    try:
        return json.loads(form.get("result") or "null")
    except (ValueError, RecursionError):
        raise ValueError('the result is not JSON; write null, 12, "text" or {"name": "value"}.') from None


def _given(form: Form) -> Any:
    """Return the result for a dry run; what is no JSON is refused when it counts."""
    try:
        return _result(form)
    except ValueError:
        return None


def _outcome(form: Form) -> Literal["completed", "compensated"]:
    outcome = form.text("outcome")
    if outcome not in {"completed", "compensated"}:
        raise ValueError("a saga is resolved as completed or as compensated.")
    return cast(Literal["completed", "compensated"], outcome)


def _refusal(error: Exception) -> tuple[HTTPStatus, str]:
    """Return how an order was refused."""
    told = str(error)
    if isinstance(error, TryAgain):
        return HTTPStatus.SERVICE_UNAVAILABLE, told
    if isinstance(error, PayloadError | DefinitionError) or not isinstance(error, PolysagaError):
        return HTTPStatus.UNPROCESSABLE_ENTITY, told
    return HTTPStatus.CONFLICT, told

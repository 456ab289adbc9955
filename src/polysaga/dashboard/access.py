"""Who may come in, and whose forms may act.

Looking needs a person that the program's `authorize` knows; without `authorize`, this machine. Acting needs the
role operator, asked again for every form, and three proofs that the form is the dashboard's own:

- `Sec-Fetch-Site`, which pages cannot forge, says that the form came from this site. Browsers that do not send it
  send `Origin`, which must then name the host that was asked.
- The form carries a token: an HMAC of the person's name under a secret that only this browser's cookie has
  (`HttpOnly`, `SameSite=Strict`, below the dashboard's own path). A page of another site can neither read the
  cookie nor send it. No process keeps the secret, so any number of processes behind a proxy agree without a
  setting, and a restart does not spoil an open form.
- The token is compared in constant time.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from polysaga.people import Authorize, Person, Role, person_of

COOKIE = "polysaga_dashboard"
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes
_OWN = {"same-origin", "none"}


class NotAllowed(Exception):
    """The request is refused; *person* is None if the program does not know who asks."""

    def __init__(self, status: HTTPStatus, sentence: str, advice: str, person: Person | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.advice, self.person = status, sentence, advice, person


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person at a browser; *secret* is what the browser's cookie has, *fresh* if it does not have it yet."""

    person: Person
    secret: str
    fresh: bool

    @property
    def may_act(self) -> bool:
        """Whether the person may repair sagas."""
        return self.person.role is Role.OPERATOR

    @property
    def token(self) -> str:
        """What the forms of this visitor carry."""
        return hmac.new(self.secret.encode(), self.person.name.encode(), hashlib.sha256).hexdigest()


class Door:
    """Lets people in."""

    def __init__(self, authorize: Authorize | None) -> None:
        self._authorize = authorize

    @property
    def knows_people(self) -> bool:
        """Whether the program tells who asks."""
        return self._authorize is not None

    async def person(self, request: Request) -> Person:
        """Return who asks; raise `NotAllowed`."""
        person = await person_of(request, self._authorize)
        if person is not None:
            return person
        if self._authorize is None:
            raise NotAllowed(
                HTTPStatus.FORBIDDEN,
                "This dashboard is open to its own machine only.",
                "The program has to give dashboard(authorize=...) to let people in from elsewhere.",
            )
        raise NotAllowed(
            HTTPStatus.UNAUTHORIZED,
            "The program does not know who you are.",
            "Sign in as the program asks for it, and open this page again.",
        )

    async def visitor(self, request: Request) -> Visitor:
        """Return who looks at a page; raise `NotAllowed`."""
        person = await self.person(request)
        secret = request.cookies.get(COOKIE, "")
        if _SECRET.fullmatch(secret):
            return Visitor(person, secret, fresh=False)
        return Visitor(person, secrets.token_urlsafe(32), fresh=True)

    async def actor(self, request: Request, form: Mapping[str, str]) -> Visitor:
        """Return who sent *form*; raise `NotAllowed` unless the form is the dashboard's own and may act."""
        visitor = await self.visitor(request)
        if not visitor.may_act:
            raise NotAllowed(
                HTTPStatus.FORBIDDEN,
                f"{visitor.person.name} may look, not act.",
                "Nothing was changed. The form that you sent needs the role operator; you have the role viewer.",
                visitor.person,
            )
        if not may_come_from(request):
            raise NotAllowed(
                HTTPStatus.FORBIDDEN,
                "Pages of other sites may not act here.",
                "Nothing was changed. Open the dashboard itself, and act there.",
                visitor.person,
            )
        # Bytes, because `compare_digest` refuses text beyond ASCII.
        if visitor.fresh or not hmac.compare_digest(form.get("token", "").encode(), visitor.token.encode()):
            raise NotAllowed(
                HTTPStatus.FORBIDDEN,
                "This form is not one that the dashboard gave you.",
                "Nothing was changed. Your cookie may have been deleted, or you have signed in as another person "
                "since; open the page again, and send its form.",
                visitor.person,
            )
        return visitor


def keep(response: Response, visitor: Visitor, request: Request) -> None:
    """Give the visitor's browser the cookie that its forms need, if it has none."""
    if visitor.fresh:
        path = request.scope.get("root_path") or "/"
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, visitor.secret, path=path, secure=secure, httponly=True, samesite="strict")


def may_come_from(request: Request) -> bool:
    """Return whether no page of another site made the browser send *request*."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in _OWN
    origin = request.headers.get("origin")
    if origin is None:
        return True
    # Not urlsplit: it raises an error for `http://[`.
    host = origin.partition("://")[2]
    return bool(host) and host == request.headers.get("host")

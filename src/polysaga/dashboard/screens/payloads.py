"""JSON on the page of a saga, with its masked values hidden."""

from dataclasses import dataclass

from markupsafe import Markup

from polysaga.dashboard.masking import Mask, decoded, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """JSON, with its masked values hidden; *more* lines are folded away."""

    text: Markup
    more: int
    none: str = ""  # why there is no payload


def payload(text: str, mask: Mask, *, whole: bool) -> Payload:
    """Return the JSON *text* for a page; folded unless *whole*."""
    written, more = shown(decoded(text), mask, whole=whole)
    return Payload(text=written, more=more)

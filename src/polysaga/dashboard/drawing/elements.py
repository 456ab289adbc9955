"""Elements of SVG and HTML, with every text escaped."""

from collections.abc import Iterable

from markupsafe import Markup, escape


def tag(name: str, *inner: str, **attributes: object) -> Markup:
    """Return an element; `class_` is `class`, underscores become hyphens, and None leaves an attribute out.

    *inner* is escaped unless it is markup.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    if not inner:
        return Markup("<{}{}/>").format(name, written)
    return Markup("<{}{}>{}</{}>").format(name, written, together(inner), name)


def together(parts: Iterable[str]) -> Markup:
    """Return *parts* one after the other, escaped unless they are markup."""
    return Markup("").join(escape(part) for part in parts)


def percent(value: float) -> str:
    """Return a place or a width in percent."""
    return f"{value:.2f}%"


def tenths(value: float) -> str:
    """Return a coordinate."""
    return f"{value:.1f}"

"""Encoded bookmarks: what a client, a job or a message carries so that its next read misses nothing.

    v1.orders=pg:7391.2:16/B374D848!points=ma:.0:0-1-88.<signature>

All characters are those of a cookie's value. The signature (HMAC-SHA256 of all before it, 128 bits) shows that one
of our processes wrote it. Without it a client could name a place that no server has reached yet, and so force
every read to the primary. A text that is not signed, or not written as we write it, counts as no bookmark: its
client reads like every new visitor. Nothing in it is secret, and nothing of it ever becomes part of a statement.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence

from polysaga.databases.positions import Position, parse

LONGEST = 3500  # characters; browsers refuse cookies of more than 4096

_VERSION = "v1"
_ROOM = LONGEST - len(_VERSION) - 24  # characters for the places, beside the signature
_SHORT = 120  # characters; a place no longer than this is not shortened
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII).fullmatch


def encode(bookmark: Mapping[str, Position], secret: bytes) -> str:
    """Encode all of *bookmark*: as one text, or several joined by commas if one would be too long.

    A place that is too long becomes one that no server reaches. It sends the next reader to the primary: slower,
    but never stale.
    """
    places = dict(bookmark)
    for name in sorted(places, key=lambda name: -len(places[name].text)):
        if sum(map(_length, places.items())) <= _ROOM or len(places[name].text) <= _SHORT:
            break
        places[name] = places[name].beyond()
    texts: list[dict[str, Position]] = [{}]
    for name, place in sorted(places.items()):
        if sum(map(_length, texts[-1].items())) + _length((name, place)) > _ROOM:
            texts.append({})
        texts[-1][name] = place
    return ",".join(sign(text, secret) for text in texts)


def _length(named: tuple[str, Position]) -> int:
    name, place = named
    return len(name) + len(place.text) + 2


def sign(bookmark: Mapping[str, Position], secret: bytes) -> str:
    """Encode and sign *bookmark*; leave out databases that would make it longer than `LONGEST`."""
    parts: list[str] = []
    left = _ROOM
    for name, position in sorted(bookmark.items()):
        part = f"{name}={position.text}"
        if _NAME(name) and len(part) < left:
            parts.append(part)
            left -= len(part) + 1
    body = f"{_VERSION}.{'!'.join(parts)}"
    return f"{body}.{_signature(body, secret)}"


def verify(text: str, secrets: Sequence[bytes]) -> dict[str, Position]:
    """Decode *text*; return an empty bookmark unless one of *secrets* signed it."""
    if len(text) > LONGEST or not text.isascii():
        return {}
    body, _, signature = text.rpartition(".")
    if not any(hmac.compare_digest(_signature(body, secret), signature) for secret in secrets):
        return {}
    version, _, rest = body.partition(".")
    if version != _VERSION:
        return {}
    try:
        parts = [part.split("=", 1) for part in rest.split("!")] if rest else []
        return {name: parse(place) for name, place in parts if _NAME(name)}
    except ValueError:
        return {}  # signed by another version of the program


def _signature(body: str, secret: bytes) -> str:
    digest = hmac.digest(secret, body.encode(), hashlib.sha256)
    return urlsafe_b64encode(digest[:16]).decode().rstrip("=")

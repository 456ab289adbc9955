"""Bookmarks: what we signed is read back; whatever else arrives is no bookmark, and never an error."""

import hmac
import logging
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from random import Random
from typing import Any, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from polysaga import Databases, SqlDatabase
from polysaga.clock import Clock
from polysaga.config import BookmarkSettings, parse_settings
from polysaga.databases.positions import Epoch, Gtids, Lsn, Position, parse_gtids
from polysaga.databases.samples import NodeRole
from polysaga.errors import ConfigurationError
from polysaga.routing.bookmarks import LONGEST, encode, sign, verify
from polysaga.routing.policy import Limits, clamped, pick
from polysaga.routing.scopes import Scope
from polysaga.routing.topology import NodeState, Seat, Topology
from tests.unit.test_positions import positions

KEY, FORMER, STRANGE = b"k" * 32, b"f" * 32, b"s" * 32
HERE = Epoch("73", 2)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
bookmarks = st.dictionaries(names, positions, max_size=5)


@given(bookmarks)
def test_what_was_signed_is_read_back(bookmark: Mapping[str, Position]) -> None:
    assert verify(sign(bookmark, KEY), [KEY]) == bookmark


@given(bookmarks)
def test_the_letters_are_those_of_a_header_and_of_a_cookie(bookmark: Mapping[str, Position]) -> None:
    # RFC 6265: no blanks, quotes, commas, semicolons or backslashes.
    assert re.fullmatch(r"[!#$%&'()*+\-./0-9:<=>?@A-Z\[\]^_`a-z{|}~]*", sign(bookmark, KEY))


@given(bookmarks)
def test_a_new_key_signs_and_the_former_is_still_accepted(bookmark: Mapping[str, Position]) -> None:
    assert verify(sign(bookmark, FORMER), [KEY, FORMER]) == bookmark
    assert verify(sign(bookmark, KEY), [KEY, FORMER]) == bookmark
    assert verify(sign(bookmark, FORMER), [KEY]) == {}


@given(bookmarks, st.data())
def test_a_bookmark_that_was_touched_is_none(bookmark: Mapping[str, Position], data: st.DataObject) -> None:
    text = sign(bookmark, KEY)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    touched = text[:start] + data.draw(st.text(max_size=20)) + text[end:]
    assume(touched != text)
    assert verify(touched, [KEY, FORMER]) == {}


@given(bookmarks)
def test_a_strangers_signature_is_none(bookmark: Mapping[str, Position]) -> None:
    assert verify(sign(bookmark, STRANGE), [KEY, FORMER]) == {}


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_whatever_arrives_is_no_error(text: str) -> None:
    assert verify(text, [KEY]) == {}


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=200))
def test_nonsense_with_a_good_signature_is_no_error(nonsense: str) -> None:
    """Another version of the program may write what this one cannot read."""
    verify(signed(f"v1.{nonsense}"), [KEY])
    verify(signed(f"v1.orders={nonsense}"), [KEY])


def signed(body: str) -> str:
    """Return *body* with the signature that a process of ours gives."""
    digest = hmac.digest(KEY, body.encode(), "sha256")
    return f"{body}.{urlsafe_b64encode(digest[:16]).decode().rstrip('=')}"


@pytest.mark.parametrize(
    "text", ["", ".", "v1", "v1..", "v1.." + "A" * 22, "\x00" * 100, "é", "=" * 1000, "!" * 1000]
)
def test_edges_are_none(text: str) -> None:
    assert verify(text, [KEY]) == {}


def test_a_bookmark_of_a_megabyte_is_not_even_looked_at() -> None:
    assert verify("v1." + "a" * 2**20, [KEY]) == {}
    assert verify(signed("v1." + "!".join(["a=pg:.0:0/1"] * 100_000)), [KEY]) == {}


def test_a_bookmark_stays_shorter_than_a_cookie_may_be() -> None:
    endless = Gtids(parse_gtids(",".join(f"{n:08x}-0000-0000-0000-000000000000:1-9" for n in range(200))).sources)
    many = {f"database_{n}": Lsn(n, HERE) for n in range(500)}
    text = sign({"endless": endless, **many}, KEY)

    assert len(text) <= LONGEST < 4096
    kept = verify(text, [KEY])
    assert kept
    assert kept.items() <= many.items()


def of_many_servers(count: int) -> Gtids:
    return Gtids(parse_gtids(",".join(f"{n:08x}-0000-0000-0000-000000000000:1-9" for n in range(count))).sources)


def read(text: str) -> dict[str, Position]:
    return {name: place for one in text.split(",") for name, place in verify(one, [KEY]).items()}


@given(bookmarks)
def test_what_was_written_is_read_back(bookmark: Mapping[str, Position]) -> None:
    assert read(encode(bookmark, KEY)) == bookmark


@pytest.mark.parametrize("count", [70, 80, 200, 2000])
def test_of_a_position_too_long_to_carry_the_primary_is_asked(count: int) -> None:
    """A MySQL server that has been rebuilt many times has many sources; what is left out would be read stale."""
    long = of_many_servers(count)
    text = encode({"shop": long, "orders": Lsn(7, HERE)}, KEY)
    assert len(text) <= LONGEST
    place = read(text)["shop"]
    assert read(text)["orders"] == Lsn(7, HERE)
    assert place == long or (place.comparable(long) and not long.reached(place) and not place.reached(long))


def test_no_database_is_left_out_however_many_there_are() -> None:
    many: dict[str, Position] = {f"database_{n}": Lsn(n, HERE) for n in range(200)}
    many |= {f"long_{n}": of_many_servers(60) for n in range(4)}
    text = encode(many, KEY)
    assert max(map(len, text.split(","))) <= LONGEST
    told = read(text)
    assert told.keys() == many.keys()
    assert all(told[name] == place or not place.reached(told[name]) for name, place in many.items())


# ---- what a bookmark can do


class Routed:
    """Stands for a router: `Databases.scope` asks it for its topology only."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology


@given(positions)
def test_a_bookmark_of_another_cluster_is_ignored(position: Position) -> None:
    here = Lsn(2**40, HERE)
    databases = Databases(SqlDatabase("orders"))
    databases.bookmarks = BookmarkSettings(secret=SecretStr(KEY.decode()))
    databases._routers["orders"] = cast(Any, Routed(topology(here, here)))
    with databases.scope(sign({"orders": position, "unknown": position}, KEY)) as scope:
        assert scope.required == ({"orders": position} if position.comparable(here) else {})


def topology(primary: Lsn, replayed: Lsn, asked_at: float = 10.0) -> Topology:
    nodes = (
        NodeState(Seat("a"), role=NodeRole.PRIMARY, position=primary, asked_at=asked_at, failure=None),
        NodeState(Seat("b"), role=NodeRole.REPLICA, position=replayed, lag=0.0, asked_at=asked_at, failure=None),
    )
    return Topology(nodes, primary=0)


@given(positions)
def test_no_bookmark_asks_for_more_than_the_primary_has(required: Position) -> None:
    primary = Lsn(2**40, HERE)
    seen = clamped(topology(primary, primary), required, known_since=5.0)
    assert primary.reached(seen)


@given(positions)
def test_a_replica_that_has_all_serves_whoever_comes_with_whatever(required: Position) -> None:
    primary = Lsn(2**40, HERE)
    known = topology(primary, primary)
    asked = clamped(known, required, known_since=5.0)
    choice = pick(known, asked, Limits(2.0, 1.0), 10.0, score=lambda _: 0.0, random=Random(1))
    assert choice is not None
    assert choice.index == 1


@given(st.lists(positions, max_size=6))
def test_a_scope_keeps_the_greatest_of_one_cluster(found: list[Position]) -> None:
    scope = Scope(clock=Clock())
    for position in found:
        scope.require("orders", position)
    if found:
        kept = scope.required["orders"]
        assert kept.comparable(found[-1])
        assert kept.reached(found[-1])


# ---- the key


@pytest.mark.parametrize(
    "given", [{"secret": "guess me"}, {"secret": ""}, {"secret": "k" * 32, "former_secrets": ["old"]}]
)
def test_a_key_that_can_be_guessed_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"bookmarks\.(former_)?secrets?.*openssl rand -hex 32"):
        parse_settings({"bookmarks": given})


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "a\r\nb", "é"])
def test_a_cookie_without_a_proper_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"bookmarks\.cookie"):
        parse_settings({"bookmarks": {"cookie": name}})


def test_the_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    settings = BookmarkSettings(secret=SecretStr("h" * 32), former_secrets=(SecretStr("g" * 32),))
    with caplog.at_level(logging.DEBUG):
        text = sign({"orders": Lsn(1, HERE)}, b"h" * 32)
        verify(text + "x", [b"h" * 32])
    assert "hhhh" not in repr(settings) + str(settings) + text + caplog.text
    assert "gggg" not in repr(settings)

"""Ids of sagas: UUIDs of version 7, or made from a key."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysaga.errors import PayloadError
from polysaga.sagas.definition.identity import id_from_key, id_from_time

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - made aware by timezones=
    max_value=datetime(9999, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
KEYS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=255)


@given(now=MOMENTS)
def test_an_id_from_time_is_a_uuid_of_version_7_that_carries_its_milliseconds(now: datetime) -> None:
    value = id_from_time(now)
    assert (value.version, value.variant) == (7, RFC_4122)
    assert value.int >> 80 == int(now.timestamp() * 1000)


@given(now=MOMENTS, later=st.integers(min_value=1, max_value=10**9))
def test_ids_of_later_milliseconds_sort_later_as_numbers_and_as_text(now: datetime, later: int) -> None:
    first, second = id_from_time(now), id_from_time(min(now + timedelta(milliseconds=later), _LAST))
    if int(now.timestamp() * 1000) < second.int >> 80:
        assert first < second
        assert str(first) < str(second)


def test_ids_of_one_millisecond_differ() -> None:
    assert len({id_from_time(NOON) for _ in range(20_000)}) == 20_000


def test_all_74_random_bits_vary() -> None:
    ids = [id_from_time(NOON).int for _ in range(400)]
    ones, zeros = 0, (1 << 128) - 1
    for value in ids:
        ones, zeros = ones | value, zeros & value
    random_bits = (1 << 76) - (1 << 64) | (1 << 62) - 1
    assert ones ^ zeros == random_bits


@given(saga=NAMES, key=KEYS)
def test_a_key_always_stands_for_the_same_id(saga: str, key: str) -> None:
    assert id_from_key(saga, key) == id_from_key(saga, key)
    assert id_from_key(saga, key).version == 5


def test_a_key_stands_for_the_same_id_in_every_process_and_release() -> None:
    assert id_from_key("place-order", "invoice-536365") == UUID("51795da2-8c75-5e0d-9fb8-c346dfa0f5db")


@given(first=st.tuples(NAMES, KEYS), second=st.tuples(NAMES, KEYS))
def test_different_sagas_or_keys_have_different_ids(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert (id_from_key(*first) == id_from_key(*second)) == (first == second)


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_empty_or_too_long_is_refused_with_the_limit(key: str) -> None:
    with pytest.raises(PayloadError, match=f"1 to 255 characters, not {len(key)}"):
        id_from_key("place-order", key)


def test_a_key_that_is_not_unicode_text_is_refused() -> None:
    with pytest.raises(PayloadError):
        id_from_key("place-order", "\ud800")


_LAST = datetime(9999, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize("key", ["a\0b", "\0"])
def test_a_key_with_nul_is_refused_on_every_database(key: str) -> None:
    with pytest.raises(PayloadError, match="must not contain the character NUL"):
        id_from_key("place-order", key)


@pytest.mark.parametrize("key", [UUID(int=1), 7, b"order", ["order"]])
def test_a_key_that_is_no_text_is_refused_with_the_remedy(key: Any) -> None:
    with pytest.raises(PayloadError, match=r"a key is text, not \w+: pass str\(key\)"):
        id_from_key("place-order", key)

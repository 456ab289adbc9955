"""Searching the journal: every saga that matches is on exactly one page, and no page reads more than its share."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from polysaga.sagas import SagaFilter, SagaPage, Status
from polysaga.sagas.journal import queries
from polysaga.sagas.journal.queries import Catalogue
from polysaga.sagas.journal.tables import journal as table
from tests.conformance.shops import SqlShop
from tests.conformance.test_journal import KNOWN

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOOK = 4


@dataclass(frozen=True)
class Saga:
    """A row of the journal; *age* is in hours, and several sagas may have begun at the same moment."""

    number: int
    age: int
    name: str = "trip"
    status: Status = Status.COMPLETED
    reason: str | None = None

    @property
    def id(self) -> UUID:
        return UUID(int=self.number)


# Newest first, equal moments by id: the rare ones stand behind more others than one search reads.
SAGAS = (
    Saga(19, 1),
    Saga(3, 1, status=Status.RUNNING),
    *(Saga(number, 2) for number in (18, 17, 16, 15, 14, 13)),
    Saga(12, 2, "cruise"),
    Saga(11, 3, status=Status.COMPENSATED, reason="sold out"),
    *(Saga(number, 4) for number in (24, 23, 22, 21)),
    Saga(20, 4, status=Status.COMPENSATED, reason="sold out"),
    Saga(10, 5, "cruise", Status.NEEDS_ATTENTION, "no account"),
    Saga(9, 5, status=Status.COMPENSATED, reason="no account"),
    *(Saga(number, 6) for number in (8, 7, 6, 5, 4)),
    Saga(2, 7, "cruise"),
    Saga(1, 8),
)
FILTERS: dict[str, tuple[SagaFilter, Callable[[Saga], bool]]] = {
    "all": (SagaFilter(), lambda saga: True),
    "name": (SagaFilter(name="cruise"), lambda saga: saga.name == "cruise"),
    "unknown name": (SagaFilter(name="flight"), lambda saga: False),
    "completed": (SagaFilter(status=Status.COMPLETED), lambda saga: saga.status is Status.COMPLETED),
    "compensated": (SagaFilter(status=Status.COMPENSATED), lambda saga: saga.status is Status.COMPENSATED),
    "parked": (SagaFilter(status=Status.NEEDS_ATTENTION), lambda saga: saga.status is Status.NEEDS_ATTENTION),
    "two statuses": (
        SagaFilter(status=(Status.RUNNING, Status.COMPENSATED)),
        lambda saga: saga.status in {Status.RUNNING, Status.COMPENSATED},
    ),
    "parked or undone": (
        SagaFilter(status=(Status.NEEDS_ATTENTION, Status.COMPENSATED)),
        lambda saga: saga.status in {Status.NEEDS_ATTENTION, Status.COMPENSATED},
    ),
    "reason": (SagaFilter(error="ACCOUNT"), lambda saga: saga.reason == "no account"),
    "status and reason": (
        SagaFilter(status=Status.COMPENSATED, error="account"),
        lambda saga: saga.reason == "no account" and saga.status is Status.COMPENSATED,
    ),
    "completed and name": (
        SagaFilter(status=Status.COMPLETED, name="cruise"),
        lambda saga: saga.status is Status.COMPLETED and saga.name == "cruise",
    ),
    "until the year 900": (SagaFilter(until=datetime(900, 1, 1, tzinfo=UTC)), lambda saga: False),
    "since the year 900": (SagaFilter(since=datetime(900, 1, 1, tzinfo=UTC)), lambda saga: True),
    "unknown definition": (SagaFilter(known=False), lambda saga: saga.name == "cruise"),
}


@pytest.fixture
async def catalogue(empty_journal: SqlShop, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """The sagas above, and searches that read four rows."""
    monkeypatch.setattr(queries, "_LOOK", LOOK)
    node = empty_journal.node()
    async with empty_journal.observer.begin() as connection:
        await connection.execute(insert(table), [_row(saga, node.dialect) for saga in SAGAS])
    return Catalogue(node, ["trip"], [KNOWN])


def _row(saga: Saga, dialect: Any) -> dict[str, Any]:
    born = dialect.moment(NOW - timedelta(hours=saga.age))
    return {
        "id": dialect.key(saga.id),
        "name": saga.name,
        "version": 1,
        "fingerprint": KNOWN if saga.name == "trip" else "0" * 32,
        "input": "1",
        "input_hash": "",
        "status": saga.status.value,
        "epoch": 1,
        "wake_at": None if saga.status.final else born,
        "results": "{}",
        "error": None if saga.reason is None else f'{{"message": "{saga.reason}"}}',
        "created_at": born,
    }


@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize("name", FILTERS)
async def test_every_match_is_on_one_page_and_the_last_one_ends_the_search(
    catalogue: Catalogue, name: str, limit: int
) -> None:
    wanted, matches = FILTERS[name]
    expected = [saga.id for saga in SAGAS if matches(saga)]
    found: list[UUID] = []
    page = SagaPage((), None)
    for _ in range(4 * len(SAGAS)):
        page = await catalogue.find(wanted, limit=limit, after=page.next)
        assert len(page.sagas) <= limit
        assert page.searched_to is None or page.next is not None
        found += [saga.id for saga in page.sagas]
        assert page.next is not None or found == expected, "a search that ends has found them all"
        if page.next is None:
            break

    assert (found, page.next) == (expected, None)


async def test_a_search_that_ends_early_says_how_far_back_it_has_come(catalogue: Catalogue) -> None:
    page = await catalogue.find(SagaFilter(name="cruise"), limit=50, after=None)
    assert page == SagaPage((), f"{NOW - timedelta(hours=2):%Y-%m-%dT%H:%M:%S+00:00}~{UUID(int=17)}", _ago(2))

    page = await catalogue.find(SagaFilter(name="cruise"), limit=50, after=page.next)
    assert (page.sagas, page.searched_to) == ((), _ago(2))
    page = await catalogue.find(SagaFilter(name="cruise"), limit=50, after=page.next)
    assert ([saga.id.int for saga in page.sagas], page.searched_to) == ([12], _ago(4))


@pytest.mark.parametrize("name", ["all", "parked"])
async def test_what_an_index_serves_is_found_at_once(catalogue: Catalogue, name: str) -> None:
    wanted, matches = FILTERS[name]

    page = await catalogue.find(wanted, limit=50, after=None)

    assert [saga.id for saga in page.sagas] == [saga.id for saga in SAGAS if matches(saga)]
    assert (page.next, page.searched_to) == (None, None)


def _ago(hours: int) -> datetime:
    return NOW - timedelta(hours=hours)

"""The crash kit finds what is broken, and nothing in what is not."""

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from orders.cancel_order import cancel_order
from orders.place_order import place_order
from orders.sagas import sagas
from orders.tables import create_tables
from polysaga import Databases, MongoDatabase, Sagas, SqlDatabase
from polysaga.config import parse_settings
from polysaga.databases.dialects import SqlDialect
from polysaga.errors import ConfigurationError
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.driving import execution as executor
from polysaga.sagas.participants import Entry, UndoWork, Work
from polysaga.sagas.participants.lending import lend
from polysaga.sagas.participants.sql import SqlParticipant
from polysaga.sagas.protocol import decisions
from polysaga.sagas.protocol.decisions import Finish, Move
from polysaga.sagas.protocol.decisions import RunSteps as RunSteps
from polysaga.sagas.protocol.known import Known
from polysaga.sagas.protocol.rows import LedgerRow, Row
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.testing import CrashKit, CrashProgress, PromiseBroken, Run
from tests.fixtures.order_books import a_cancellation, an_order, books_add_up
from tests.fixtures.setups import embedded_urls

pytestmark = pytest.mark.usefixtures("no_settings_from_outside")


@pytest.fixture
def no_settings_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def kit(tmp_path: Path, **options: Any) -> CrashKit:
    databases = {name: {"url": url} for name, url in embedded_urls(tmp_path).items()}
    return CrashKit(sagas, parse_settings({"databases": databases}), setup=create_tables, **options)


@pytest.fixture(autouse=True)
def one_story_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysaga.testing.crash_kit.kit._MOST_TOLD", 1)


def broken(tmp_path: Path, **options: Any) -> PromiseBroken:
    with pytest.raises(PromiseBroken) as found:
        kit(tmp_path, **options).prove(place_order, an_order, invariant=books_add_up)
    return found.value


WRITES_OF_A_ZOMBIE = [
    "refused-in-credit_points/freeze@A:before:reserve_stock:touched",
    "refused-in-reserve_stock~/freeze@A:before:credit_points:touched",
]


def shown(tmp_path: Path, cases: list[str]) -> PromiseBroken:
    """Return what the first of *cases* shows that breaks the promise."""
    for case in cases:
        try:
            kit(tmp_path, only=case).prove(place_order, an_order, invariant=books_add_up)
        except PromiseBroken as found:
            return found
    pytest.fail(f"none of {len(cases)} runs broke the promise")


@pytest.mark.parametrize(
    ("saga", "given"), [(place_order, an_order), (cancel_order, a_cancellation)], ids=["place", "cancel"]
)
def test_a_sample_of_disturbances_leaves_the_shop_in_order(saga: Any, given: Any, crash_kit: Any) -> None:
    report = crash_kit(sagas, setup=create_tables, sample=60).prove(saga, given, invariant=books_add_up)
    assert report.runs >= 40
    assert {"undisturbed", "kill", "kill in recovery", "zombie", "lost reply", "deadline"} <= set(report.kinds)


def test_a_ledger_row_in_a_second_transaction_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transact = SqlParticipant.transact

    async def in_two(self: SqlParticipant, work: Work, seal: Any, *, bare: bool = False) -> str:
        transaction = lend(self.node)
        async with transaction as session:
            result = await work(session)
            await transaction.commit()

        async def nothing(_: Any) -> str:
            return result

        return await transact(self, nothing, seal)

    monkeypatch.setattr(SqlParticipant, "transact", in_two)
    assert "took effect 2 times instead of 1" in str(broken(tmp_path))


def test_a_compensation_that_blocks_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undo = SqlParticipant.undo

    async def only_what_is_there(
        self: SqlParticipant, entry: Entry, work: UndoWork | None, *, bare: bool = False
    ) -> LedgerRow:
        if entry.step not in await self.look(entry.saga_id, [entry.step]):
            return LedgerRow(Mark.BLOCKED, None)
        return await undo(self, entry, work, bare=bare)

    monkeypatch.setattr(SqlParticipant, "undo", only_what_is_there)
    found = broken(tmp_path)
    assert "the saga is compensated, but 'reserve_stock' took effect 1 times instead of 0" in str(found)
    assert "freeze@" in found.report.cases[0], "only a zombie shows it"


def test_an_epoch_that_is_not_checked_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render = SqlDialect.render

    def careless(self: SqlDialect, sql: str) -> Any:
        return render(self, sql.replace(" AND epoch = :epoch AND owner = :owner", ""))

    monkeypatch.setattr(SqlDialect, "render", careless)
    # Two cases of all show it, if the zombie writes before the next owner does. On a busy machine it may be late.
    found = shown(tmp_path, WRITES_OF_A_ZOMBIE * 10)
    # The ledgers keep the effects right all the same; the journal is written by who must not write it.
    assert "although another owner had claimed the saga" in str(found)
    assert "freeze@" in found.report.cases[0], "only a zombie shows it"


def test_a_saga_that_finishes_before_its_last_step_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hasty(definition: Definition, known: Known, *, home: str) -> Move:
        decision = decisions.decide(definition, known, home=home)
        if isinstance(decision, RunSteps) and decision.steps == ("record_event",):
            return Finish(Status.COMPLETED)
        return decision

    monkeypatch.setattr(executor, "decide", hasty)
    found = broken(tmp_path)
    assert found.report.cases[0] == "forward", "the shortest story comes first"
    assert "the record of 'record_event' says None" in str(found)
    assert "has no event 'order_created'" in str(found)


def test_a_deadline_that_undoes_a_decided_saga_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render = SqlDialect.render

    def whatever_its_status(self: SqlDialect, sql: str) -> Any:
        return render(self, sql.replace("WHEN status = 'running' AND deadline", "WHEN deadline"))

    monkeypatch.setattr(SqlDialect, "render", whatever_its_status)
    found = broken(tmp_path)
    assert "the saga is compensated, but 'confirm_order' took effect 1 times instead of 0" in str(found)
    assert "overdue" in found.report.cases[0], "only a takeover past the deadline shows it"


def test_a_deadline_that_is_forgotten_in_a_takeover_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = executor.Execution.resume

    async def forgetful(self: executor.Execution, row: Row) -> bool:
        goes_on = await resume(self, row)
        self._time_left = None
        return goes_on

    monkeypatch.setattr(executor.Execution, "resume", forgetful)
    # All cases would do; this crash is the one whose recovery the deadline ends.
    found = broken(tmp_path, only="forward/kill@A:at:open_order/deadline@B:begin:reserve_stock")
    assert "although its deadline had passed before it was decided" in str(found)


def test_a_deadline_of_the_sagas_own_passes_only_where_the_kit_lets_it(tmp_path: Path) -> None:
    limited, statuses = copy(place_order), dict[str, Status]()
    limited.deadline = 1.0

    async def note_status(run: Run) -> None:
        statuses[run.case] = run.status
        await books_add_up(run)

    report = kit(tmp_path, sample=60).prove(limited, an_order, invariant=note_status)
    assert report.kinds["deadline"] > 0
    assert statuses["forward"] is Status.COMPLETED


@pytest.mark.parametrize("case", ["forward/kill@A:at:confirm_ordr", "forward/kill@A:at:open_order/kill@B:nowhere"])
def test_a_case_that_does_not_exist_is_no_proof(tmp_path: Path, case: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no case named .* ran; the nearest names are 'forward/kill@A:at"
    ):
        kit(tmp_path, only=case).prove(place_order, an_order, invariant=books_add_up)


def test_a_case_of_another_part_is_no_proof(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="case 'forward' did not run: it is not in part 2 of 2"):
        kit(tmp_path, only="forward", part=(2, 2)).prove(place_order, an_order, invariant=books_add_up)


@pytest.mark.parametrize("then", ["", "/kill@B:after:confirm_order"])
def test_a_case_says_which_part_has_it(tmp_path: Path, then: str) -> None:
    kill = "forward/kill@A:at:open_order"
    told: dict[int, str] = {}
    for number in (1, 2):
        try:
            kit(tmp_path, only=kill + then, part=(number, 2)).prove(place_order, an_order, invariant=books_add_up)
        except ConfigurationError as error:
            told[number] = str(error)
    ((number, said),) = told.items()
    assert f"it is not in part {number} of 2, but in part {3 - number}; leave out part=" in said


def test_a_case_is_found_by_a_name_with_a_space(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError,
        match="the nearest names are 'refused-in-confirm_order/kill@A:before:undo_reserve_stock',",
    ):
        kit(tmp_path, only="refused-in-confirm_order/kill@A:before:undo reserve_stock").prove(
            place_order, an_order, invariant=books_add_up
        )


def test_the_progress_counts_every_case(tmp_path: Path) -> None:
    told: list[CrashProgress] = []
    kit(tmp_path, sample=20, progress=told.append).prove(place_order, an_order, invariant=books_add_up)
    assert [one.done for one in told] == list(range(1, len(told) + 1))
    assert not told[0].counted
    assert told[-1].counted
    assert told[-1].done == told[-1].planned == 20


def test_an_invariant_that_does_not_hold_is_told_with_the_story(tmp_path: Path) -> None:
    async def nothing_is_ever_sold(run: Any) -> None:
        assert run.status is not Status.COMPLETED, "something was sold"

    with pytest.raises(PromiseBroken, match="the invariant does not hold: something was sold") as found:
        kit(tmp_path, only="forward/kill@A:at:confirm_order").prove(
            place_order, an_order, invariant=nothing_is_ever_sold
        )
    assert found.value.report.runs == 1
    told = str(found.value)
    assert "A is killed at the commit of confirm_order, which happened" in told
    assert "journal: completed, epoch 2" in told
    assert "--crash-case 'forward/kill@A:at:confirm_order'" in told


def test_the_same_seed_runs_the_same_cases(tmp_path: Path) -> None:
    played: list[list[str]] = [[], [], []]

    def note(where: list[str]) -> Callable[[Any], Any]:
        async def note_case(run: Any) -> None:
            where.append(run.case)

        return note_case

    for where, seed in zip(played, (1, 1, 2), strict=True):
        kit(tmp_path, sample=12, seed=seed).prove(place_order, an_order, invariant=note(where))
    assert played[0] == played[1]
    assert played[0] != played[2]


def test_a_program_on_mongodb_needs_settings(crash_kit: Any, tmp_path: Path) -> None:
    documents, books = MongoDatabase("documents"), SqlDatabase("books")
    program = Sagas(Databases(documents, books), journal=books)
    with pytest.raises(ConfigurationError, match="'documents' is MongoDB"):
        crash_kit(program)

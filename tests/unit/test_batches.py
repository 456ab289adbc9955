"""Group commit: concurrent writes share commits, and no writer suffers for another."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from polysaga.sagas.journal.group_commit import GroupCommit
from tests.fixtures.waiting import reached


class Disk:
    """Writes numbers and answers with their doubles; every batch waits until it is let through."""

    def __init__(self, *, bad: int | None = None) -> None:
        self.commits: list[list[int]] = []
        self.tried: list[list[int]] = []
        self.bad = bad
        self.open = asyncio.Event()
        self.begun = asyncio.Event()
        self.at_once = 0

    async def write(self, items: Sequence[int]) -> Sequence[int]:
        self.at_once += 1
        assert self.at_once == 1, "two commits at a time"
        self.tried.append(list(items))
        self.begun.set()
        try:
            await reached(self.open, "the disk is open")
        finally:
            self.at_once -= 1
        if self.bad in items:
            raise ValueError(f"{self.bad} is bad")
        self.commits.append(list(items))
        return [2 * item for item in items]


async def begin(group: GroupCommit[int, int], disk: Disk, count: int) -> list[asyncio.Task[int]]:
    """Add 0, whose commit begins, and then the others, which wait for it."""
    tasks = [asyncio.create_task(group.add(0))]
    await reached(disk.begun, "the write has begun")
    tasks += [asyncio.create_task(group.add(item)) for item in range(1, count)]
    await asyncio.sleep(0)
    return tasks


async def turns() -> None:
    """Let everybody go as far as they can by themselves."""
    for _ in range(20):
        await asyncio.sleep(0)


async def ended(*tasks: asyncio.Task[int], return_exceptions: bool = False) -> list[Any]:
    """Return all answers; a caller that is never answered is an error and not a test that hangs."""
    async with asyncio.timeout(10):
        return await asyncio.gather(*tasks, return_exceptions=return_exceptions)


async def test_who_comes_during_a_commit_shares_the_next_one_in_order() -> None:
    disk = Disk()
    tasks = await begin(GroupCommit(disk.write), disk, 50)
    disk.open.set()
    assert await ended(*tasks) == [2 * item for item in range(50)]
    assert disk.commits == [[0], list(range(1, 50))]


async def test_a_lone_item_waits_for_no_timer() -> None:
    disk = Disk()
    disk.open.set()
    group: GroupCommit[int, int] = GroupCommit(disk.write)
    assert [await group.add(1), await group.add(2)] == [2, 4]
    assert disk.commits == [[1], [2]]


async def test_a_batch_is_bounded() -> None:
    disk = Disk()
    tasks = await begin(GroupCommit(disk.write, most=4), disk, 11)
    disk.open.set()
    await ended(*tasks)
    assert disk.commits == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


async def test_one_bad_item_fails_alone() -> None:
    disk = Disk(bad=3)
    tasks = await begin(GroupCommit(disk.write), disk, 6)
    disk.open.set()
    answers = await ended(*tasks, return_exceptions=True)
    assert [answer for number, answer in enumerate(answers) if number != 3] == [0, 2, 4, 8, 10]
    assert str(answers[3]) == "3 is bad"
    assert sorted(item for commit in disk.commits for item in commit) == [0, 1, 2, 4, 5]


async def test_after_a_bad_batch_the_next_ones_are_shared_again() -> None:
    disk = Disk(bad=0)
    group: GroupCommit[int, int] = GroupCommit(disk.write)
    tasks = await begin(group, disk, 4)
    disk.open.set()
    answers = await ended(*tasks, return_exceptions=True)
    assert answers[1:] == [2, 4, 6]
    assert disk.commits == [[1, 2, 3]]


async def test_a_caller_that_goes_away_takes_neither_its_item_nor_the_others_along() -> None:
    disk = Disk()
    tasks = await begin(GroupCommit(disk.write), disk, 4)
    tasks[0].cancel()
    tasks[2].cancel()
    disk.open.set()
    answers = await ended(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError, int, asyncio.CancelledError, int]
    assert disk.commits == [[0], [1, 2, 3]]


async def test_a_bad_item_whose_caller_went_away_is_no_trouble() -> None:
    disk = Disk(bad=2)
    tasks = await begin(GroupCommit(disk.write), disk, 4)
    tasks[2].cancel()
    disk.open.set()
    answers = await ended(*tasks, return_exceptions=True)
    assert [answers[0], answers[1], answers[3]] == [0, 2, 6]
    assert disk.commits == [[0], [1], [3]]


async def test_the_patient_wait_for_company_and_no_longer_than_somebody_can_come() -> None:
    disk, under_way = Disk(), 3
    disk.open.set()
    group: GroupCommit[int, int] = GroupCommit(disk.write, patience=3600.0)
    group.expected = lambda: under_way
    tasks = [asyncio.create_task(group.add(item, patient=True)) for item in (1, 2)]
    await turns()
    assert disk.tried == []  # the third may still come
    under_way = 2
    group.close_if_complete()
    assert await ended(*tasks) == [2, 4]
    under_way = 1
    assert await ended(asyncio.create_task(group.add(3, patient=True))) == [6]
    assert disk.commits == [[1, 2], [3]]


async def test_the_patient_wait_no_longer_than_their_patience() -> None:
    disk = Disk()
    disk.open.set()
    group: GroupCommit[int, int] = GroupCommit(disk.write, patience=0.01)
    group.expected = lambda: 2
    assert await ended(asyncio.create_task(group.add(1, patient=True))) == [2]


async def test_close_returns_when_everything_is_written() -> None:
    disk = Disk()
    group: GroupCommit[int, int] = GroupCommit(disk.write)
    tasks = await begin(group, disk, 5)
    closing = asyncio.create_task(group.close())
    await asyncio.sleep(0)
    assert not closing.done()
    disk.open.set()
    await closing
    assert disk.commits == [[0], [1, 2, 3, 4]]
    assert await ended(*tasks) == [0, 2, 4, 6, 8]


async def test_close_with_nothing_to_write_returns_at_once() -> None:
    disk = Disk()
    group: GroupCommit[int, int] = GroupCommit(disk.write)
    await group.close()
    disk.open.set()
    assert await group.add(1) == 2
    await group.close()
    assert disk.commits == [[1]]


async def test_an_answer_belongs_to_its_item_also_when_equal_items_share_a_commit() -> None:
    written: list[str] = []

    async def number(items: Sequence[str]) -> Sequence[int]:
        written.extend(items)
        return [len(written) - len(items) + place for place in range(len(items))]

    group: GroupCommit[str, int] = GroupCommit(number)
    answers = await asyncio.gather(*(group.add("same") for _ in range(10)))
    assert answers == list(range(10))


async def test_an_error_keeps_its_type() -> None:
    async def fail(_: Sequence[int]) -> Sequence[int]:
        raise KeyError("exists")

    group: GroupCommit[int, int] = GroupCommit(fail)
    with pytest.raises(KeyError, match="exists"):
        await group.add(1)


async def test_a_connection_that_goes_silent_fails_its_batch_at_once_and_holds_nobody_behind_it() -> None:
    disk = Disk()
    group = GroupCommit(disk.write, timeout=0.05)
    first = await begin(group, disk, 1)
    (late,) = await ended(*first, return_exceptions=True)
    assert isinstance(late, TimeoutError)
    disk.begun.clear()
    several = [asyncio.create_task(group.add(item)) for item in (1, 2, 3)]
    failed = await ended(*several, return_exceptions=True)
    assert [type(one) for one in failed] == [TimeoutError] * 3
    assert disk.tried == [[0], [1, 2, 3]], "not item by item: each of them would wait as long"
    disk.open.set()
    assert await ended(asyncio.create_task(group.add(4))) == [8]


async def test_a_server_that_goes_silent_while_a_batch_is_repeated_holds_nobody_for_each_item() -> None:
    tried: list[list[int]] = []

    async def write(items: Sequence[int]) -> Sequence[int]:
        tried.append(list(items))
        if items == [1]:
            return [2]
        if len(items) == 1:
            raise TimeoutError
        raise ValueError("3 is bad")

    group: GroupCommit[int, int] = GroupCommit(write)
    outcomes = await ended(
        *(asyncio.create_task(group.add(item)) for item in (1, 2, 3, 4)), return_exceptions=True
    )
    assert [outcomes[0], *map(type, outcomes[1:])] == [2, TimeoutError, TimeoutError, TimeoutError]
    assert tried == [[1, 2, 3, 4], [1], [2]]


async def test_a_batch_is_bounded_in_bytes_but_has_one_item_at_least() -> None:
    disk = Disk()
    group = GroupCommit(disk.write, most_bytes=10, size=lambda item: item)
    tasks = await begin(group, disk, 13)
    disk.open.set()
    await ended(*tasks)
    assert disk.commits == [[0], [1, 2, 3, 4], [5], [6], [7], [8], [9], [10], [11], [12]]


class Small(Disk):
    """Takes a few items at a time; for more it is lost, and says nothing of the reason."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.open.set()

    async def write(self, items: Sequence[int]) -> Sequence[int]:
        answers = await super().write(items)
        if len(items) > self.most:
            self.commits.pop()
            raise ConnectionResetError
        return answers


async def test_after_a_failure_of_all_the_next_batches_are_smaller_until_they_succeed() -> None:
    disk = Small(3)
    group: GroupCommit[int, int] = GroupCommit(
        disk.write, shared=lambda error: isinstance(error, ConnectionResetError)
    )

    async def insist(item: int) -> int:
        while True:
            try:
                return await group.add(item)
            except ConnectionResetError:
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(insist(item)) for item in range(40)]
    assert await ended(*tasks) == [2 * item for item in range(40)]
    assert sorted(item for commit in disk.commits for item in commit) == list(range(40))
    assert len(disk.tried[0]) == 40
    assert len(disk.tried) < 60


async def test_behind_a_silent_server_batches_do_not_become_as_small_as_one() -> None:
    disk = Disk()
    group: GroupCommit[int, int] = GroupCommit(disk.write, most=40, timeout=0.02)
    for _ in range(5):
        tasks = [asyncio.create_task(group.add(item)) for item in range(40)]
        answers = await ended(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [TimeoutError] * 40
    assert min(map(len, disk.tried)) == 5

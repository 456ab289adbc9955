"""The coordinator that people write by hand: the same steps, a list of compensations in memory, no journal.

It is not durable: a process that dies between two commits leaves half an order behind. That is the price of
what it saves, and the measure of what durability may cost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from pymongo.errors import PyMongoError

from polysaga.sagas import Saga, StepContext
from polysaga.sagas.definition.definition import define
from polysaga.sagas.definition.step import AnyStep

Compensation: TypeAlias = Callable[[], Awaitable[None]]
# Lends a session, and commits at the end of the block, as `async_sessionmaker.begin` does.
Transaction: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


class PlainCoordinator:
    """Runs the steps of a saga, each in a session of its own.

    They run one after the other, or *side_by_side*: those that do not need each other at the same time.
    """

    def __init__(
        self, saga: Saga[Any, Any], transactions: Mapping[str, Transaction], *, side_by_side: bool = False
    ) -> None:
        self._definition = define(saga)
        self._transactions = transactions
        steps = self._definition.steps
        self._rounds = _levels(steps) if side_by_side else [[step] for step in steps]

    async def run(self, value: Any) -> Any:
        """Return what the last step before the retriable ones returned; undo everything if a step fails."""
        saga_id, results, compensations = uuid4(), dict[str, Any](), list[Compensation]()

        async def take(step: AnyStep) -> None:
            context = StepContext(saga_id, step.name, 1, results)
            while True:
                try:
                    async with self._transaction(step) as session:
                        result = await step.action(session, value, context)
                    break
                except PyMongoError as error:  # two orders for one product: PyMongo's documents say, try again
                    if not error.has_error_label("TransientTransactionError"):
                        raise
            results[step.name] = result
            if step.undo is not None:
                compensations.append(self._compensation(step, saga_id, value, results))

        try:
            for steps in self._rounds:
                if len(steps) == 1:
                    await take(steps[0])
                    continue
                # All of them end before one that failed is looked at: a step under way could not be undone.
                for failure in await asyncio.gather(*map(take, steps), return_exceptions=True):
                    if failure is not None:
                        raise failure
        except Exception:
            for compensation in reversed(compensations):
                await compensation()
            raise
        assert self._definition.decision is not None
        return results[self._definition.decision.name]

    def _compensation(self, step: AnyStep, saga_id: UUID, value: Any, results: dict[str, Any]) -> Compensation:
        async def undo() -> None:
            assert step.undo is not None
            context = StepContext(saga_id, step.name, 1, results)
            async with self._transaction(step) as session:
                await step.undo(session, value, results[step.name], context)

        return undo

    def _transaction(self, step: AnyStep) -> AbstractAsyncContextManager[Any]:
        assert step.database is not None, "no call in these sagas"
        return self._transactions[step.database.name]()


def _levels(steps: tuple[AnyStep, ...]) -> list[list[AnyStep]]:
    """Return *steps* in rounds: each round needs only those before it."""
    levels: list[list[AnyStep]] = []
    done: set[str] = set()
    while len(done) < len(steps):
        ready = [s for s in steps if s.name not in done and all(before.name in done for before in s.after)]
        levels.append(ready)
        done.update(step.name for step in ready)
    return levels

"""The coordinator that people write by hand: the same steps, a list of compensations in memory, no journal.

It is not durable: a process that dies between two commits leaves half an order behind. That is the price of
what it saves, and the measure of what durability may cost.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from polysaga.sagas import Saga, StepContext
from polysaga.sagas.definition.definition import define
from polysaga.sagas.definition.step import AnyStep

Compensation = Callable[[], Awaitable[None]]


class PlainCoordinator:
    """Runs the steps of a saga one after the other, each in an `AsyncSession` of its own."""

    def __init__(self, saga: Saga[Any, Any], engines: dict[str, AsyncEngine]) -> None:
        self._definition = define(saga)
        self._engines = engines

    async def run(self, value: Any) -> Any:
        """Return what the last step before the retriable ones returned; undo everything if a step fails."""
        saga_id, results, compensations = uuid4(), dict[str, Any](), list[Compensation]()
        try:
            for step in self._definition.steps:
                context = StepContext(saga_id, step.name, 1, results)
                async with AsyncSession(self._engine(step), expire_on_commit=False) as session:
                    results[step.name] = await step.action(session, value, context)
                    await session.commit()
                if step.undo is not None:
                    compensations.append(self._compensation(step, saga_id, value, results))
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
            async with AsyncSession(self._engine(step), expire_on_commit=False) as session:
                await step.undo(session, value, results[step.name], context)
                await session.commit()

        return undo

    def _engine(self, step: AnyStep) -> AsyncEngine:
        assert step.database is not None, "no call in these sagas"
        return self._engines[step.database.name]

"""A pooler that refuses our settings, met by several connections at once."""

from typing import Any, cast

import pytest

from polysaga.databases.dialects import SqlDialect
from polysaga.databases.poolers import Pooler


class RefusesSettings:
    """A dialect whose pooler refuses settings."""

    def refuses_settings(self, error: BaseException) -> bool:
        return "startup parameter" in str(error)


async def test_a_connection_that_is_refused_after_another_has_found_out_leaves_its_settings_out() -> None:
    asked: list[bool] = []
    pooler = Pooler(cast(SqlDialect, RefusesSettings()), {}, (ConnectionError,), 1.0)

    def make(*, bare: bool) -> Any:
        asked.append(bare)
        if len(asked) == 1:
            assert pooler.connect(make) == "quick"  # another connection, while this one waits for its answer
        if not bare:
            raise ConnectionError("unsupported startup parameter")
        return "slow" if len(asked) > 3 else "quick"

    assert pooler.connect(make) == "slow"
    assert asked == [False, False, True, True]


async def test_what_is_refused_without_settings_is_not_tried_again() -> None:
    pooler = Pooler(cast(SqlDialect, RefusesSettings()), {}, (ConnectionError,), 1.0)

    def refuse(*, bare: bool) -> Any:
        raise ConnectionError("unsupported startup parameter")

    with pytest.raises(ConnectionError, match="startup parameter"):
        pooler.connect(refuse)

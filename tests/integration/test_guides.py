"""The guides' code is run as a reader would save it."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import text

from polysaga.config import parse_settings
from polysaga.migrations import migrate

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


@pytest.fixture
def guide(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Return the one Python block of a guide as a module."""

    def load(name: str) -> ModuleType:
        (source,) = re.findall(r"^```python\n(.*?)^```$", (GUIDES / f"{name}.md").read_text(), re.M | re.S)
        path = tmp_path / f"{name.replace('-', '_')}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


async def test_steps_without_a_database(guide: Callable[[str], ModuleType], tmp_path: Path) -> None:
    shop = guide("steps-without-a-database")
    settings = parse_settings({"databases": {"orders": {"url": f"sqlite+aiosqlite:///{tmp_path}/orders.db"}}})
    async with shop.databases.open(settings):
        await migrate(shop.sagas)
        async with shop.orders.writer() as db:
            await db.execute(text("CREATE TABLE orders (item TEXT PRIMARY KEY, charge TEXT)"))
        async with shop.sagas.open():
            shop.bank.busy = True
            charge = await shop.sagas.run(shop.buy, shop.Purchase(item="lantern", cents=500), timeout=30)
            assert list(shop.bank.charges.values()) == [500]
            assert charge.reference.endswith(":charge_card")
            with pytest.raises(shop.CardDeclined):
                await shop.sagas.run(shop.buy, shop.Purchase(item="boat", cents=200_000), timeout=30)
            with pytest.raises(Exception, match="undone"):  # a second lantern: the primary key says no
                await shop.sagas.run(shop.buy, shop.Purchase(item="lantern", cents=600), timeout=30)
            assert list(shop.bank.charges.values()) == [500]

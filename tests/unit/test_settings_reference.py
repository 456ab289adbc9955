"""The reference of the settings has every setting, with the default that the code has, and no other."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from polysaga.config import (
    BookmarkSettings,
    DatabaseSettings,
    PoolSettings,
    ReadSettings,
    ReplicaSettings,
    SagaSettings,
    Settings,
    load_settings,
)

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text()
SECTIONS: dict[str, type[BaseModel]] = {
    "databases.NAME": DatabaseSettings,
    "databases.NAME.pool": PoolSettings,
    "databases.NAME.replicas": ReplicaSettings,
    "databases.NAME.reads": ReadSettings,
    "sagas": SagaSettings,
    "bookmarks": BookmarkSettings,
}


def rows(section: str) -> dict[str, tuple[str, str]]:
    """Return default and meaning of every setting of *section*, as the page has them."""
    (text,) = re.findall(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {name: (default.strip("`"), meaning) for name, default, meaning in found}


def written(model: type[BaseModel], name: str) -> str:
    """Return the default of a setting as the page writes it."""
    field = model.model_fields[name]
    default = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if isinstance(default, BaseModel):
        return "its defaults"
    if (model, name) == (ReplicaSettings, "pool"):
        return "as the primary"
    if default is None or default in ((), {}):
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) and default < 10**5 else str(default).removesuffix(".0")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_on_the_page_with_its_default(section: str) -> None:
    model = SECTIONS[section]
    shown = rows(section)
    assert {name: default for name, (default, _) in shown.items()} == {
        name: written(model, name) for name in model.model_fields
    }
    assert all(len(meaning) > 10 for _, meaning in shown.values())


def test_every_section_is_on_the_page() -> None:
    titles = set(re.findall(r"^## ([a-z]\S*)$", PAGE, re.MULTILINE))
    assert titles == set(SECTIONS)
    assert {title.partition(".")[0] for title in titles} == set(Settings.model_fields)


def test_what_the_page_shows_as_variables_is_read(tmp_path: Path) -> None:
    (tmp_path / "orders_url").write_text("sqlite:///orders.db\n")
    shown = dict(re.findall(r"`(POLYSAGA_\w+)='?([^`']+)'?`", PAGE))
    assert len(shown) == 3
    variables = {name: text.replace("/run/secrets", str(tmp_path)) for name, text in shown.items()}
    settings = load_settings(environment=variables)
    assert (settings.databases["orders"].pool.size, settings.sagas.lease) == (20, 5)
    assert settings.databases["orders"].url.get_secret_value() == "sqlite:///orders.db"

"""The guide to logging, as its reader would save it: uvicorn takes its file, and events come out as it says."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "logging.md").read_text()
TELL = """
import logging
import sys

import uvicorn

uvicorn.Config("shop:app", log_config="logging.json")  # configures as `uvicorn --log-config` does

from polysaga.events import DatabaseOpened, PrimaryLost
from polysaga.telemetry import LogSubscriber

tell = LogSubscriber()
tell(DatabaseOpened("orders", ("sqlite+aiosqlite:///orders.db",)))
tell(PrimaryLost("orders"))
logging.getLogger("alembic.runtime.migration").info("Will assume non-transactional DDL.")
logging.getLogger("uvicorn.error").info("Started server process")
"""


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


@pytest.fixture
def terminal(tmp_path: Path) -> Path:
    (tmp_path / "logging.json").write_text(block("json"))
    (tmp_path / "json_lines.py").write_text(block("python"))
    (tmp_path / "tell.py").write_text(TELL)
    return tmp_path


def told(directory: Path) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "tell.py"], cwd=directory, capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == ""
    return ended.stderr.splitlines()


def test_uvicorn_shows_the_events_as_lines(terminal: Path) -> None:
    opened, lost, started = told(terminal)
    assert "INFO     polysaga: database orders is open at sqlite+aiosqlite:///orders.db" in opened
    assert "ERROR    polysaga: database orders has no primary" in lost
    assert started.endswith("uvicorn.error: Started server process")


def test_uvicorn_shows_the_events_as_json(terminal: Path) -> None:
    config: dict[str, Any] = json.loads(block("json"))
    config["handlers"]["console"]["formatter"] = "json"
    (terminal / "logging.json").write_text(json.dumps(config))
    opened, lost, _ = map(json.loads, told(terminal))
    assert (opened["event"], opened["level"], opened["database"]) == ("database-opened", "INFO", "orders")
    assert opened["nodes"] == ["sqlite+aiosqlite:///orders.db"]
    assert (lost["event"], lost["level"]) == ("primary-lost", "ERROR")

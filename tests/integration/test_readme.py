"""The README says what is so: its code runs, its commands exist, its settings load, its pictures are true."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from uuid import UUID

import httpx2
import pytest

from orders import screen
from polysaga import load_settings
from polysaga.config import Settings
from polysaga.sagas import Status

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def blocks(language: str) -> list[str]:
    return [text for said, text in BLOCKS if said == language]


def commands() -> list[list[str]]:
    """Return every command of every shell block as its words, without comments."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def commands_of(program: str) -> list[list[str]]:
    found = [words[1:] for words in commands() if words[0] == program]
    assert found, f"the README has no {program} any more"
    return found


def targets() -> set[str]:
    """Return every `make X` of the README, in shell blocks and in prose."""
    return {words[0] for words in commands_of("make")} | set(re.findall(r"`make ([a-z-]+)`", README))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, imported from the file that a reader would save."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("POLYSAGA_")]:
        monkeypatch.delenv(name)
    (source,) = blocks("python")
    (tmp_path / "shop.py").write_text(source)
    spec = importlib.util.spec_from_file_location("shop", tmp_path / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def served(shop: ModuleType) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=shop.app)
    async with (
        shop.app.router.lifespan_context(shop.app),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000") as client,
    ):
        yield client


async def curl(client: httpx2.AsyncClient, *, without: str = "") -> httpx2.Response:
    """Send what the README's curl sends, perhaps without one header."""
    ((url, *options),) = commands_of("curl")
    pairs = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in pairs if option == "-H")
    headers.pop(without, None)
    (body,) = [value for option, value in pairs if option == "-d"]
    return await client.post(f"http://{url}", headers=headers, content=body)


def test_every_block_is_of_a_language_that_is_checked_here() -> None:
    assert {language for language, _ in BLOCKS} == {"sh", "python", "toml", "json", "text"}


async def test_the_example_answers_one_key_with_one_order(shop: ModuleType) -> None:
    async with served(shop) as client:
        first, again = await curl(client), await curl(client)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()
        assert first.json()["left"] == 1
        assert (await client.get("/orders")).json() == [{"item": "lantern", "pieces": 2}]


async def test_the_example_undoes_a_refused_order_and_answers_as_shown(
    shop: ModuleType,
) -> None:
    async with served(shop) as client:
        await curl(client)
        refused = await curl(client, without="idempotency-key")
        assert refused.headers["content-type"] == "application/problem+json"
        (shown,) = [json.loads(text) for text in blocks("json")]
        said = refused.json()
        state = await shop.sagas.get(UUID(said.pop("saga_id")))
        assert state.status is Status.COMPENSATED
        assert [entry.step for entry in state.history if entry.phase == "undo"][-1] == "store_order"
        shown.pop("saga_id")
        assert (refused.status_code, said) == (409, shown)
        assert len((await client.get("/orders")).json()) == 1


async def test_the_example_survives_a_restart_with_its_orders_and_its_keys(shop: ModuleType) -> None:
    async with served(shop) as client:
        first = await curl(client)
    async with served(shop) as client:
        assert (await curl(client)).json() == first.json()
        assert (await client.get("/health/ready")).json()["status"] == "ready"


async def test_the_example_shows_its_problems_in_the_openapi_document(shop: ModuleType) -> None:
    async with served(shop) as client:
        described = (await client.get("/openapi.json")).json()
        assert {"201", "409", "422", "503"} <= set(described["paths"]["/orders"]["post"]["responses"])


def settings_of_the_readme(directory: Path, environment: Mapping[str, str]) -> Settings:
    (text,) = blocks("toml")
    file = directory / "polysaga.toml"
    file.write_text(text)
    return load_settings(file=file, environment=environment)


def test_the_settings_in_toml_load(tmp_path: Path) -> None:
    settings = settings_of_the_readme(tmp_path, {})
    assert set(settings.databases) == {"orders", "stock"}
    assert len(settings.databases["orders"].replicas) == 1
    assert settings.databases["stock"].url.get_secret_value().startswith("mysql+asyncmy://")
    assert settings.bookmarks.secret is not None, "a program with replicas does not start without it"


def test_the_settings_in_toml_are_the_defaults_where_they_show_numbers(tmp_path: Path) -> None:
    settings = settings_of_the_readme(tmp_path, {})
    assert settings.sagas == Settings().sagas
    assert settings.databases["orders"].pool == settings.databases["stock"].pool


def test_the_settings_in_the_environment_win_over_the_file(tmp_path: Path) -> None:
    exported = dict(word.split("=", 1) for words in commands_of("export") for word in words)
    settings = settings_of_the_readme(tmp_path, exported)
    orders = settings.databases["orders"]
    assert orders.url.get_secret_value().startswith("postgresql+psycopg://")
    assert (orders.pool.size, settings.sagas.lease) == (20, 5)
    assert len(orders.replicas) == 1


@pytest.mark.parametrize("target", sorted(targets()))
def test_make_knows_the_verb(target: str) -> None:
    told = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert told.returncode == 0, told.stderr


def test_make_demo_takes_the_port_and_the_directory_as_told() -> None:
    given = re.findall(r"`((?:PORT|DATA)=\w+)`", README)
    assert len(given) == 2
    told = subprocess.run(
        ["make", "--dry-run", "demo", *given], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    for assignment in given:
        assert assignment.partition("=")[2] in told.stdout


@pytest.mark.parametrize(
    "program", sorted({words[0] for words in commands()} - {"make", "export", "pip", "polysaga"})
)
def test_the_program_is_there(program: str) -> None:
    known = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=120)
    assert known.returncode == 0, known.stderr


def test_what_pip_installs_are_extras_of_this_project_and_what_the_example_needs() -> None:
    quoted = re.findall(r"pip install '(?:polysaga|\.)\[([\w,]+)\]'", README)
    assert len(quoted) == 2
    extras = PROJECT["project"]["optional-dependencies"]
    for names in quoted:
        assert set(names.split(",")) == {"fastapi", "sqlite", "cli"}
        assert set(names.split(",")) <= set(extras)
    named = README.partition("brings its driver as an extra: ")[2].partition("A handle is")[0]
    assert set(re.findall(r"`(\w+)`", named)) == set(extras) - {
        "fastapi",
        "cli",
        "dashboard",
        "prometheus",
        "tracing",
        "all",
    }


def test_the_demo_prints_what_is_shown() -> None:
    (shown,) = blocks("text")
    order_id = UUID(re.findall(r"/orders/(\S+)", shown)[0])
    names = ("orders", "points", "inventory")
    nodes = [(name, f"sqlite+aiosqlite:///data/{name}.db") for name in names]
    with screen.console.capture() as captured:
        screen.show_demo("http://127.0.0.1:8000", nodes, order_id)
    assert captured.get().split() == shown.split()


def test_every_file_that_is_named_is_there() -> None:
    linked = {target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target}
    named = set(re.findall(r"`((?:src|services|tests|docs)/[\w/.-]+)`", README))
    assert linked
    assert named
    assert [path for path in sorted(linked | named) if not (ROOT / path).exists()] == []

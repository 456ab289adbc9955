"""Metrics and traces are extras: a missing one is named with its remedy, and nothing else needs them."""

import subprocess
import sys

import pytest


def ended(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [
        ("prometheus_client", "polysaga.telemetry.prometheus", "prometheus"),
        ("prometheus_client", "polysaga.fastapi.metrics", "prometheus"),
        ("opentelemetry", "polysaga.telemetry.tracing", "tracing"),
    ],
)
def test_a_missing_extra_is_named_with_its_remedy(missing: str, module: str, extra: str) -> None:
    told = ended(f"import sys; sys.modules['{missing}'] = None; import {module}")
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].endswith(f"pip install 'polysaga[{extra}]'")


def test_a_program_without_them_loads_neither() -> None:
    program = (
        "import sys; import polysaga.sagas.service, polysaga.routing.databases, polysaga.telemetry; "
        "sys.exit(any(name in sys.modules for name in ('prometheus_client', 'opentelemetry')))"
    )
    assert ended(program).returncode == 0

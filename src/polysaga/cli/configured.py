"""`--config PATH`, which every command takes: the settings file in place of `polysaga.toml`.

It is stored as `POLYSAGA_CONFIG`, so the program's own `load_settings` uses it too.
"""

import functools
import os
from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

VARIABLE = "POLYSAGA_CONFIG"  # as in `polysaga.sources`, which would make the help slow to load

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="PATH", help="The settings file, instead of polysaga.toml.", show_default=False
    ),
]


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Return *command* with the option `--config` added."""
    own = signature(command)
    option = Parameter("config", Parameter.KEYWORD_ONLY, default=None, annotation=Config)

    @functools.wraps(command)
    def with_config(*, config: Path | None = None, **given: Any) -> None:
        use(config)
        command(**given)

    parameters = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in own.parameters.values()]
    with_config.__signature__ = own.replace(parameters=[*parameters, option])  # type: ignore[attr-defined]
    with_config.__annotations__ = {**command.__annotations__, "config": Config}
    return with_config


def use(config: Path | None) -> None:
    """Make *config*, if given, the settings file from now on."""
    if config is not None:
        os.environ[VARIABLE] = str(config)

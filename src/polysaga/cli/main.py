"""The `polysaga` command. Each command has its own file beside this one; this file assembles them.

A command's file is loaded when the command runs: the overview needs only one sentence about each.

Exit codes, for scripts: 0 all is well; 1 the check found something; 2 the call, the program's configuration, a
database or the device for the output is at fault. Code 2 comes with one line on standard error. 130: Ctrl-C.
"""

import signal
import sys
from importlib.metadata import version as version_of
from typing import Annotated, Any

from polysaga.loading import load_module

try:
    import typer
    from typer.core import TyperGroup
except ModuleNotFoundError:
    sys.exit("polysaga: the command line is an extra: pip install 'polysaga[cli]'")

from polysaga.cli.configured import Config, configured, use
from polysaga.cli.output import printing

# By the name of the command: the first sentence of its help. Its file has the same name.
COMMANDS = {
    "check": "Ask every server whether a program would work on it.",
    "migrate": "Create or upgrade the journal and the ledgers of a program.",
    "nodes": "Ask every server for its role and its position.",
    "verify": "Compare the journal with all ledgers and outboxes.",
    "worker": "Drive sagas, and take over those that were left behind.",
    "sagas": "Find sagas, understand one, and repair what needs a person.",
}


class CommandsByName(TyperGroup):
    """Loads a command when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, or None if there is none of this name."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a line about each command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def load_command(name: str) -> Any:
    """Import the command *name* and return it as Click knows it."""
    found = getattr(load_module(f"polysaga.cli.{name}"), name)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        single.command(name)(configured(found))
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(
    name="polysaga",
    cls=CommandsByName,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polysaga {version_of('polysaga')}")
        raise typer.Exit


@app.callback()
def polysaga(
    config: Config = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Several databases behind one service, as if they were one."""
    use(config)


def main() -> None:
    """Run the command that the arguments name; never returns."""
    with printing():
        try:
            app()
        except KeyboardInterrupt:  # before or after the command itself, for which Typer does the same
            sys.exit(128 + signal.SIGINT)
        except Exception as error:  # border: `failures` knows which errors are expected, and needs the drivers
            failures = load_module("polysaga.cli.failures")
            if not failures.is_expected(error):
                raise
            failures.give_up(error)

"""The `polysaga` command. One file per noun beside this one; here they are put together.

Exit codes, for scripts: 0 all is well; 1 the check found something; 2 the call, the program's configuration or a
database is at fault, said in one line on standard error.
"""

import sys
from importlib.metadata import version as version_of
from typing import Annotated

from sqlalchemy.exc import DBAPIError

from polysaga.config import masked
from polysaga.databases import Fault
from polysaga.databases.dialects import fault_of
from polysaga.errors import PolysagaError

try:
    import typer
except ModuleNotFoundError:
    sys.exit("polysaga: the command line is an extra: pip install 'polysaga[cli]'")

from polysaga.cli.check import check
from polysaga.cli.configured import Config, configured, use
from polysaga.cli.migrate import migrate
from polysaga.cli.nodes import nodes
from polysaga.cli.sagas import sagas
from polysaga.cli.verify import verify

app = typer.Typer(
    name="polysaga",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (check, migrate, nodes, verify):
    app.command()(configured(command))
app.add_typer(sagas, name="sagas")


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
    try:
        app()
    except PolysagaError as error:
        _give_up(str(error))
    except DBAPIError as error:
        missing = fault_of(error) is Fault.SCHEMA_MISSING
        _give_up("our tables are missing or out of date; run `polysaga migrate`" if missing else str(error.orig))


def _give_up(reason: str) -> None:
    print(f"polysaga: {masked(' '.join(reason.split()))}", file=sys.stderr)
    sys.exit(2)

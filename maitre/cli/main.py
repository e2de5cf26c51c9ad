"""Put the command groups together; show an error that the user can mend on one line."""

import sys
import traceback

import typer

from maitre.cli import bank, catalogue, cluster, deploy, maxpack, place, requests, tune, twin, up
from maitre.errors import UserError, named_file_errors

ISSUES = "https://github.com/maitre-project/maitre/issues"

app = typer.Typer(
    name="maitre",
    help="Tune prompts on deadline; serve many LoRA adapters on the fewest GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("tune")(tune.tune)
app.add_typer(requests.app, name="requests")
app.add_typer(bank.app, name="bank")
app.add_typer(twin.app, name="twin")
app.add_typer(maxpack.app, name="maxpack")
app.command("place")(place.place)
app.add_typer(catalogue.app, name="catalogue")
app.add_typer(cluster.app, name="cluster")
app.add_typer(deploy.app, name="deploy")
app.command("up")(up.up)
app.command("down")(up.down)


def main() -> None:
    """Run the command line.

    A `UserError` becomes one line on stderr and exit code 2. So does an error of the operating
    system on a file that is named on the command line, and a database that does not answer (a
    setting names it). Any other exception is a defect: a traceback, where to report it, exit
    code 1.
    """
    try:
        with named_file_errors(*_possible_paths(sys.argv[1:])):
            app()
    except UserError as error:
        print(f"maitre: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if line := _database_error(error):
            print(f"maitre: {line}", file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()
        print(f"maitre: this is a defect of Maitre; please report it: {ISSUES}", file=sys.stderr)
        sys.exit(1)


def _possible_paths(arguments: list[str]) -> list[str]:
    """Return what may be a path among the arguments: each of them, and what follows a `=`."""
    return [part for argument in arguments for part in {argument, argument.rpartition("=")[2]}]


def _database_error(error: Exception) -> str | None:
    """Return the line of an error that a database gave, None for any other error."""
    # Whoever has raised one of its errors has imported it.
    if "sqlalchemy" not in sys.modules:
        return None
    from maitre.workers.transient_errors import TRANSIENT_ERRORS, first_line

    return first_line(error) if isinstance(error, TRANSIENT_ERRORS) else None

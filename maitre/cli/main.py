"""Puts the command groups together and turns an error of the user's into one line and exit 2."""

import sys

import typer

from maitre.cli import bank, cluster, deploy, maxpack, place, requests, tune, twin, up

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
app.add_typer(cluster.app, name="cluster")
app.add_typer(deploy.app, name="deploy")
app.command("up")(up.up)


def main() -> None:
    """Entry point. A `ValueError` or a file that cannot be used is the user's: one line, exit 2.

    So are a pool and a database that cannot be asked: a setting names them.
    """
    from maitre.processes.service_error import ServiceError
    from maitre.serving.errors import VllmError

    try:
        app()
    except (ValueError, FileNotFoundError, PermissionError) as error:
        print(f"maitre: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # A folder where a file is meant, a disk that is full or may only be read.
        if error.filename is None:
            raise
        print(f"maitre: {error}", file=sys.stderr)
        sys.exit(2)
    except (ServiceError, VllmError) as error:
        print(f"maitre: {error}", file=sys.stderr)
        sys.exit(1)
    except _passing() as error:
        from maitre.workers.transient_errors import first_line

        print(f"maitre: {first_line(error)}", file=sys.stderr)
        sys.exit(2)


def _passing() -> tuple[type[Exception], ...]:
    """Errors of the warm pool and of the database; asked for only when something was raised."""
    from maitre.workers.transient_errors import TRANSIENT_ERRORS

    return TRANSIENT_ERRORS

"""This is the command `anything3d` with its list of commands."""

from typing import Annotated

import typer

from jobs.ablate import ablate
from jobs.bench import app as bench
from jobs.command import CODES
from jobs.config import app as config
from jobs.demo import demo
from jobs.drop import drop
from jobs.duplicates import duplicates
from jobs.evaluate import evaluate
from jobs.examples import ending
from jobs.export import export
from jobs.gc import gc
from jobs.lift_image import lift_image
from jobs.nightly import nightly
from jobs.plan import plan
from jobs.preview import preview
from jobs.report import report
from jobs.retry import retry
from jobs.run import run
from jobs.status import status
from jobs.train import train
from jobs.verify import verify
from jobs.view import view
from jobs.weights import app as weights
from jobs.world import world

app = typer.Typer(
    help="Photographs (SA-1B shards) in, a corpus of 3D objects out.",
    epilog=CODES,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: markup would take [[variant]] for a style
)


def say_version(wanted: bool) -> None:
    """Print the version of this package, and end."""
    if wanted:
        from importlib.metadata import version

        print(f"anything3d {version('anything3d')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version of this package.", callback=say_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before the name of a command."""


app.command(epilog=ending("run", CODES))(run)
app.command(epilog=ending("plan"))(plan)
app.command(epilog=ending("preview"))(preview)
app.command(epilog=ending("lift-image"))(lift_image)
app.command(epilog=ending("world"))(world)
app.command(epilog=ending("demo"))(demo)
app.command(epilog=ending("evaluate"))(evaluate)
app.command(epilog=ending("status"))(status)
app.command(epilog=ending("view"))(view)
app.command(epilog=ending("report"))(report)
app.command(epilog=ending("duplicates"))(duplicates)
app.command(epilog=ending("drop"))(drop)
app.command(epilog=ending("verify"))(verify)
app.command(epilog=ending("export"))(export)
app.command(epilog=ending("gc"))(gc)
app.command(epilog=ending("nightly", CODES))(nightly)
app.command(epilog=ending("retry"))(retry)
app.command(epilog=ending("train"))(train)
app.command(epilog=ending("ablate", CODES))(ablate)
app.add_typer(weights, name="weights")
app.add_typer(bench, name="bench")
app.add_typer(config, name="config")


if __name__ == "__main__":
    app()

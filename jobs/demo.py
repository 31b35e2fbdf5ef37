"""`anything3d demo` makes a mini-world shard, runs the pipeline on it, and prints the scores against its truth."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from jobs.command import LogFile, Verbose

SCENES, SEED, OBJECTS = 3, 7, 8
UNITS = "units.objects=4"  # two units: on two cores one of them is distilled while the other one is lifted


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for the shard and the corpus.")] = Path("demo"),
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Show the pipeline end to end.

    Makes scenes whose truth is known, lifts their objects and prints the scores; a minute or two on two cores.
    """
    from jobs.evaluate import evaluate
    from jobs.run import run
    from jobs.scores import table
    from jobs.world import world
    from pipeline.input import source
    from pipeline.release.snapshot import snapshot_of

    shard, corpus = out / "world.tar", out / "corpus"
    out.mkdir(parents=True, exist_ok=True)
    if not shard.exists():
        world(shard, scenes=SCENES, seed=SEED, held_out=True)
    try:
        run(  # its table says what failed
            str(corpus),
            [str(shard)],
            settings=[UNITS],
            max_objects=OBJECTS,
            max_failed=1.0,
            verbose=verbose,
            log_file=log_file,
        )
    except typer.Exit as ended:
        if ended.exit_code:
            raise
    for line in table(corpus):
        print(line)
    evaluate(str(corpus), [str(shard.with_suffix(".truth"))], verbose=verbose, log_file=log_file)
    _, made = snapshot_of(source.absolute(str(corpus)))
    for line in next_steps(corpus, made.number):
        print(line)


def next_steps(corpus: Path, snapshot: int) -> Iterator[str]:
    """Where the result is, and three commands to try."""
    command = os.path.relpath(Path(sys.executable).with_name("anything3d"))
    yield f"The gallery is {corpus}/index.html. Commands to try next:"
    yield f"  {command} view {corpus} --open    # the gallery, where each mesh can be turned"
    yield f"  {command} run --out {corpus} --like {snapshot} --set mesh.texture_px=0    # mesh and score run again"
    yield f"  {command} weights list --preset default    # what photographs need"


if __name__ == "__main__":
    typer.run(demo)

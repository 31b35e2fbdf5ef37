"""`anything3d world` writes a mini-world shard with its ground truth."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.command import errors_as_one_line


def world(
    out: Annotated[Path, typer.Argument(help="The shard to write, OUT.tar; the truth goes to OUT.truth/ beside it.")],
    scenes: Annotated[int, typer.Option(min=1, help="Photos in the shard.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")],
    held_out: Annotated[
        bool, typer.Option(help="Scenes of the test split: other seeds, and pairs never trained on.")
    ] = False,
    size: Annotated[int, typer.Option(min=64, help="Pixels of a photo's side.")] = 512,
) -> None:
    """Write a mini-world shard and its truth.

    The shard has procedural scenes of coloured shapes in SA-1B's format; what is true of every object lies beside it.
    """
    from anything3d.mini.world import write_world

    with errors_as_one_line():
        write_world(
            out,
            scenes=scenes,
            seed=seed,
            held_out=held_out,
            size=size,
            progress=lambda done: typer.echo(f"scene {done}/{scenes}"),
        )
    typer.echo(f"{out} and {out.with_suffix('.truth')}/")

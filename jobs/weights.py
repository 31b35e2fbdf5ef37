"""`anything3d weights`: which networks a run needs, where they come from, and whether they are there."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.config import Config

app = typer.Typer(help="Which weights a run needs, where they come from, what is there.", no_args_is_help=True)

Preset = Annotated[str, typer.Option("--preset", help="Settings to begin with; see jobs/presets/.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over it, as resources.weights_root=/weights; repeatable.")
]


@app.command("list")
def list_weights(preset: Preset = "mini", settings: Settings = None) -> None:
    """Every folder of weights that a run needs: for which stages, how large, under which licence, and where it is."""
    for line in _table(_config(preset, settings)):
        print(line)


@app.command()
def verify(preset: Preset = "mini", settings: Settings = None) -> None:
    """Read every file and compare it with its digest. Exit code 1 if something is missing or wrong."""
    from anything3d.errors import WeightsError
    from anything3d.weights import digest, directory
    from pipeline.stages import weights_of

    config = _config(preset, settings)
    sound = True
    for name in weights_of(config):
        try:
            directory(name, config.place())
            print(f"{name}: sha256 {digest(name, config.place())[:16]}", flush=True)
        except WeightsError as error:
            sound = False
            print(error, flush=True)
    raise typer.Exit(0 if sound else 1)


@app.command()
def where(preset: Preset = "mini", settings: Settings = None) -> None:
    """Shell commands that fetch every missing file from its owner into resources.weights_root."""
    from anything3d.published import PUBLISHED
    from anything3d.weights import packaged
    from pipeline.stages import weights_of

    config = _config(preset, settings)
    for name in weights_of(config):
        if packaged(name):
            continue
        if name not in PUBLISHED:
            print(f"# {name}: a folder of your own")
            continue
        folder = Path(config.resources.weights_root) / name
        for file in PUBLISHED[name].files:
            if not (folder / file.path).is_file():
                print(f"curl --create-dirs -fL -o '{folder / file.path}' '{file.url}'")


def _config(preset: str, settings: list[str] | None) -> "Config":
    from anything3d.errors import Anything3DError
    from jobs.run import read_preset
    from pipeline.config import load

    try:
        return load([read_preset(preset)], settings or [])
    except Anything3DError as error:
        typer.echo(f"anything3d: {error}", err=True)
        raise typer.Exit(2) from error


def _table(config: "Config") -> Iterator[str]:
    from anything3d.published import PUBLISHED
    from anything3d.weights import find, packaged
    from pipeline.stages import STAGES, weights_of

    yield f"{'weights':<24}{'MB':>7}  {'licence':<24}{'stages':<30}where"
    for name in weights_of(config):
        stages = ", ".join(stage.name for stage in STAGES if name in stage.weights(getattr(config, stage.name)))
        folder, official = find(name, config.place()), PUBLISHED.get(name)
        files = [path for path in folder.rglob("*") if path.is_file()] if folder else []
        size = sum(path.stat().st_size for path in files) // 10**6 if files else official.megabytes if official else 0
        licence = "Apache-2.0" if packaged(name) else official.licence if official else "unknown"
        yield f"{name:<24}{size:>7}  {licence:<24}{stages:<30}{folder or 'MISSING'}"

"""`anything3d weights` says which weights a run needs, where they come from, and whether they are there."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command import ConfigFile, Preset, Settings, errors_as_one_line, read_settings
from jobs.examples import ending

if TYPE_CHECKING:
    from pipeline.config import Config

app = typer.Typer(
    help="List, check and fetch weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Names = Annotated[
    list[str] | None, typer.Argument(help="Folders of weights, as sam-vit-h; without, all that the settings name.")
]


@app.command("list", epilog=ending("weights list"))
def list_weights(
    names: Names = None, preset: Preset = "mini", config: ConfigFile = None, settings: Settings = None
) -> None:
    """List every folder of weights that is needed.

    For which stages, how large, under which licence, and where it is.
    """
    with errors_as_one_line():
        chosen = _settings(preset, config, settings)
        for line in _table(names or _needed(chosen), chosen):
            print(line)


@app.command(epilog=ending("weights verify"))
def verify(names: Names = None, preset: Preset = "mini", config: ConfigFile = None, settings: Settings = None) -> None:
    """Read every file and check it.

    Says of each file what it was compared with. Exit code 1 if something is missing or wrong.
    """
    from anything3d.errors import WeightsError
    from anything3d.models.published import PUBLISHED
    from anything3d.models.weights import digest, packaged

    with errors_as_one_line():
        chosen = _settings(preset, config, settings)
    sound = True
    for name in names or _needed(chosen):
        try:
            known = digest(name, chosen.place())[:16]
        except WeightsError as error:
            sound = False
            print(error, flush=True)
            continue
        compared = "" if packaged(name) or name in PUBLISHED else ", nothing to compare it with"
        print(f"{name}: sha256 {known} of all files{compared}", flush=True)
        for file in PUBLISHED[name].files if name in PUBLISHED else ():
            print(f"  {file.path}: {file.checked}", flush=True)
    raise typer.Exit(0 if sound else 1)


@app.command(epilog=ending("weights where"))
def where(names: Names = None, preset: Preset = "mini", config: ConfigFile = None, settings: Settings = None) -> None:
    """Print commands that fetch what is missing.

    Shell commands, file by file, from its owner into resources.weights_root.
    """
    from anything3d.errors import ConfigError
    from anything3d.models.published import PUBLISHED
    from anything3d.models.weights import packaged

    with errors_as_one_line():
        chosen = _settings(preset, config, settings)
        if unknown := sorted({name for name in names or () if name not in PUBLISHED}):
            raise ConfigError(
                "weights_name", f"Nobody publishes {', '.join(unknown)}. Known are {', '.join(PUBLISHED)}."
            )
    for name in names or _needed(chosen):
        if packaged(name):
            continue
        if name not in PUBLISHED:
            print(f"# {name}: a folder of your own")
            continue
        for file in PUBLISHED[name].files:
            path = Path(chosen.resources.weights_root) / name / file.path
            if not (path.is_file() and file.has_size(path.stat().st_size)):
                part, whole = shlex.quote(f"{path}.part"), shlex.quote(str(path))
                print(f"curl --create-dirs -fL -o {part} {shlex.quote(file.url)} && mv {part} {whole}")


def _settings(preset: str, config: Path | None, settings: list[str] | None) -> "Config":
    """The settings, with the root as an absolute path: what is printed holds in any folder."""
    chosen = read_settings(preset, config, settings)
    root = str(Path(chosen.resources.weights_root).absolute())
    return replace(chosen, resources=replace(chosen.resources, weights_root=root))


def _needed(config: "Config") -> list[str]:
    """What a run needs, and SAM in any case: lift-image prompts it, whatever the source of a run's masks."""
    from pipeline.stages import weights_of

    return sorted({*weights_of(config), config.segment.weights})


def _table(names: list[str], config: "Config") -> Iterator[str]:
    from anything3d.models.published import PUBLISHED
    from anything3d.models.weights import files, find, packaged
    from pipeline.stages import needed

    yield f"{'weights':<24}{'MB':>7}  {'licence':<24}{'stages':<30}where"
    for name in names:
        users = [stage.name for stage in needed(config) if name in stage.weights(getattr(config, stage.name))]
        if name == config.segment.weights and "segment" not in users:
            users.append("lift-image")
        folder, official = find(name, config.place()), PUBLISHED.get(name)
        sizes = [path.stat().st_size for path in files(folder).values()] if folder else []
        size = sum(sizes) // 10**6 if sizes else official.megabytes if official else 0
        licence = "Apache-2.0" if packaged(name) else official.licence if official else "unknown"
        yield f"{name:<24}{size:>7}  {licence:<24}{', '.join(users) or '-':<30}{folder or 'MISSING'}"

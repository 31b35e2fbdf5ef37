"""What the commands share: the options that make settings, and errors as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.config import Config

Preset = Annotated[str, typer.Option("--preset", help="Settings to begin with; see jobs/presets/.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file over the preset.", exists=True, dir_okay=False)
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over both, as caption.beams=5; repeatable.")
]


PRESETS = Path(__file__).parent / "presets"


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Ends the command with exit code 2 and one line, if what was asked for cannot be done."""
    from anything3d.errors import Anything3DError

    try:
        yield
    except Anything3DError as error:
        typer.echo(f"anything3d: {error}", err=True)
        raise typer.Exit(2) from error


def read_settings(preset: str, config: Path | None, settings: list[str] | None) -> "Config":
    """The preset, the file over it, `--set` over both; the root of weights made absolute, for actors elsewhere.

    Raises: ConfigError.
    """
    from pipeline.config import load

    chosen = load([read_preset(preset), *([config.read_text()] if config else [])], settings or [])
    root = chosen.resources.weights_root
    return replace(chosen, resources=replace(chosen.resources, weights_root=root and str(Path(root).absolute())))


def read_preset(name: str) -> str:
    """The TOML of a preset.

    Raises: ConfigError for an unknown name.
    """
    from anything3d.errors import ConfigError

    known = sorted(path.stem for path in PRESETS.glob("*.toml"))
    if name not in known:
        raise ConfigError("preset", f"no preset {name!r}; known: {', '.join(known)}")
    return (PRESETS / f"{name}.toml").read_text()

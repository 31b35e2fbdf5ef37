"""What the commands share: the options that make settings, and errors as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
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
    """The preset, the file over it, `--set` over both.

    Raises: ConfigError.
    """
    from jobs.run import read_preset
    from pipeline.config import load

    return load([read_preset(preset), *([config.read_text()] if config else [])], settings or [])

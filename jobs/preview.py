"""`anything3d preview`: which masks of the first photos become objects, before anything else runs."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.command import ConfigFile, Preset, Settings, errors_as_one_line, read_settings


def preview(
    shards: Annotated[
        list[str], typer.Argument(help="As of `run`: tars, folders, Parquet files, lists.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The page, one HTML file.", dir_okay=False)] = Path("preview.html"),
    photos: Annotated[int, typer.Option(min=1, help="Look at the first N photos.")] = 24,
    preset: Preset = "mini",
    config: ConfigFile = None,
    settings: Settings = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; of SAM, if masks come from it.")] = "cpu",
) -> None:
    """Show which masks become objects, and why others do not.

    Runs the selection of `segment` on the first photos, and nothing else: no corpus, no Ray. Masks of annotations need
    no network. Change `--set segment....`, and look again.
    """
    with errors_as_one_line():
        chosen = read_settings(preset, config, settings)  # before the imports below, which take seconds

        from pipeline.input import source

        named = source.expand(shards)

        from pipeline.stages.segment import SegmentStage, check_annotated

        check_annotated(named[:photos], chosen)

        from anything3d.models.device import cores, hide_progress_bars, use_threads
        from pipeline.preview import deciding, page
        from pipeline.preview import preview as look
        from pipeline.remark import remark

        hide_progress_bars()
        use_threads(cores())
        note = remark(SegmentStage.weights(chosen.segment))
        made = look(chosen, named, photos, device)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(made, chosen, named, note), encoding="utf-8")
        if note:
            print(note)
        for group in made.groups():
            keys = "  ".join(f"{key}={value}" for key, value in deciding(group.reason, chosen.segment).items())
            print(f"{group.reason or 'object':<20}{group.count:>7}  {keys}".rstrip())
        print(f"{len(made.photos)} photos: {out}")


if __name__ == "__main__":
    typer.run(preview)

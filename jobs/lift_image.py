"""`anything3d lift-image`: one photo, no shard, no Ray."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.command import ConfigFile, Preset, Settings, errors_as_one_line, read_settings


def lift_image(
    photo: Annotated[Path, typer.Argument(help="JPEG or PNG.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="Folder for mesh, turntable, cloud, crop, report.", file_okay=False)],
    point: Annotated[
        tuple[float, float] | None, typer.Option(help="X Y: a pixel of the object, from the top left corner.")
    ] = None,
    box: Annotated[
        tuple[float, float, float, float] | None, typer.Option(help="Left, top, right, bottom of the object, pixels.")
    ] = None,
    preset: Preset = "mini",
    config: ConfigFile = None,
    settings: Settings = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Lift one object of a photo to 3D. Without a point or a box, the most prominent one."""
    with errors_as_one_line():
        import time

        from anything3d.models.device import hide_progress_bars
        from pipeline import photo as single
        from pipeline.stages import note

        started = time.monotonic()
        hide_progress_bars()

        def say(stage: str) -> None:
            print(f"[{time.monotonic() - started:5.1f} s] {stage}", flush=True)

        chosen = read_settings(preset, config, settings)
        if warning := note(chosen):
            print(warning, flush=True)
        lifted = single.lift_image(photo, point=point, box=box, config=chosen, device=device, say=say)
        out.mkdir(parents=True, exist_ok=True)
        for name, data in lifted.files().items():
            (out / name).write_bytes(data)
            if name.endswith(".html"):
                say(f"done: {out / name}")
        caption, score = lifted.rows.caption, lifted.rows.score
        named = repr(caption.caption) if caption else lifted.rows.object_id
        print(f"{named}; from the photo's side {score.reference_psnr_db:.1f} dB, IoU {score.reference_mask_iou:.2f}")
        if lifted.note:
            print(lifted.note)


if __name__ == "__main__":
    typer.run(lift_image)

"""`anything3d lift-image`: one photo, no shard, no Ray."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.command import ConfigFile, Preset, Settings, errors_as_one_line, read_settings


def lift_image(
    photo: Annotated[Path, typer.Argument(help="JPEG, PNG or WebP.", exists=True, dir_okay=False)],
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

        chosen = read_settings(preset, config, settings)  # before the imports below, which take seconds

        from anything3d.models.device import cores, hide_progress_bars, use_threads
        from anything3d.single import lift_image as lift
        from pipeline.photo import files, method_config, pace
        from pipeline.remark import remark

        started = time.monotonic()
        hide_progress_bars()

        def say(stage: str) -> None:
            print(f"[{time.monotonic() - started:5.1f} s] {stage}", flush=True)

        method = method_config(chosen)
        if warning := remark(method.weights):
            print(warning, flush=True)
        use_threads(cores())
        made = lift(photo, point=point, box=box, config=method, place=chosen.place(device), pace=pace(chosen), say=say)
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files(made, photo.name, chosen.reconstruct.steps, warning).items():
            (out / name).write_bytes(data)
            if name.endswith(".html"):
                say(f"done: {out / name}")
        scored = made.scored
        print(
            f"{made.captioned.text!r}; from the photo's side {scored.mesh.psnr_db:.1f} dB, "
            f"IoU {scored.mesh.mask_iou:.2f}"
        )
        if warning:
            print(warning)


if __name__ == "__main__":
    typer.run(lift_image)

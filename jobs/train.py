"""`anything3d train` trains the mini networks. It needs nothing but this repository."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.command import errors_as_one_line


def train(
    network: Annotated[
        str,
        typer.Argument(
            help="vae; diffusion and taesd, after it; sam; blip; clip; dino; pointe and pointe-upsampler, after it."
        ),
    ],
    work: Annotated[
        Path, typer.Option(help="Rendered data, checkpoints, logs and weights. Run again to resume.")
    ] = Path("training"),
    seed: Annotated[int, typer.Option(min=0, help="Of the first weights and of every batch.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="For torch; trainings side by side want one each.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the training's own number.")] = None,
    from_packaged: Annotated[
        bool,
        typer.Option(
            "--from-packaged",
            help="Begin with the packaged weights, and keep the mean of them and of the trained ones.",
        ),
    ] = False,
    packaged_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With --from-packaged: the share of the packaged weights in this mean, else 0.5. 0 keeps the others.",
        ),
    ] = None,
    packaged_rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="With --from-packaged: the share of the learning rate, else 0.3."),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG for a contact sheet on held-out data.")] = None,
    install: Annotated[
        bool, typer.Option(help="Put the finished weights into this checkout, in place of the packaged ones.")
    ] = False,
) -> None:
    """Train one mini network.

    docs/mini-models.md says how well that works and how long it takes.
    """
    from anything3d.mini import training
    from anything3d.models.device import check_device, use_threads

    for option, value in (("--packaged-share", packaged_share), ("--packaged-rate", packaged_rate)):
        if value is not None and not from_packaged:
            raise typer.BadParameter("it needs --from-packaged", param_hint=option)
    share = training.PACKAGED_SHARE if packaged_share is None else packaged_share
    use_threads(threads)
    with errors_as_one_line():
        check_device(device)
        training.train_network(
            network,
            work,
            seed=seed,
            device=device,
            steps=steps,
            packaged_share=share if from_packaged else None,
            packaged_rate=training.PACKAGED_RATE if packaged_rate is None else packaged_rate,
            progress=lambda line: print(line, flush=True),
        )
        if sheet:
            from anything3d.mini.training.sheets import sheet as draw

            draw(network, work).save(sheet)
        if install:
            print(f"installed in {training.install(network, work)}")


if __name__ == "__main__":
    typer.run(train)

"""How the mini networks are trained: rendered data, one loop, and one module for each network. It needs only torch."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from anything3d.errors import ConfigError, WeightsError
from anything3d.mini.training.loop import Training, train
from anything3d.models.weights import PACKAGED, write_manifest

# network -> its weights folder, and the networks that have to be trained before it
NETWORKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "vae": ("diffusion", ()),
    "diffusion": ("diffusion", ("vae",)),
    "taesd": ("taesd", ("vae",)),
    "sam": ("sam", ()),
    "blip": ("blip", ()),
    "clip": ("clip", ()),
    "dino": ("dino", ()),
    "pointe": ("pointe", ("clip",)),
    "pointe-upsampler": ("pointe-upsampler", ("clip",)),
}

PACKAGED_SHARE = 0.5  # of the packaged weights in their mean with the trained ones
PACKAGED_RATE = 0.3  # of the learning rate, for a training that begins with weights that were trained before


def train_network(
    name: str,
    work: Path,
    *,
    seed: int,
    device: str,
    steps: int | None,
    packaged_share: float | None = None,
    packaged_rate: float = PACKAGED_RATE,
    progress: Callable[[str], None],
) -> None:
    """Train one network, or several that are trained together, from where `work` has it; see `loop.train`.

    With a `packaged_share`, it begins with the packaged weights instead of random ones, at `packaged_rate` of the
    learning rate. It keeps the mean of what it began with and of what it has learnt. The former have this share of it.

    Raises: ConfigError for an unknown name, or if the packaged weights are not where the training looks for them;
    WeightsError if a network that it needs has not been trained.
    """
    if name not in NETWORKS:
        raise ConfigError("unknown_network", f"{name!r}; known are {', '.join(NETWORKS)}")
    for needed in NETWORKS[name][1]:
        if not (work / needed / "checkpoint.pt").exists():
            raise WeightsError("not_trained", f"{name} is trained on {needed}; run `anything3d train {needed}` first")
    render(name, work, progress)
    training = training_of(name, work, seed, device)
    if packaged_share is not None:
        training = _from_packaged(training, packaged_share, packaged_rate)
    train(training if steps is None else replace(training, steps=steps), work, seed, device, progress)


def _from_packaged(training: Training, share: float, rate: float) -> Training:
    """The same training of the packaged weights, which are put into its networks."""
    from safetensors.torch import load_file

    try:
        if training.load:
            training.load(PACKAGED)
        else:
            training.networks.load_state_dict(load_file(PACKAGED / NETWORKS[training.name][0] / "model.safetensors"))
    except (RuntimeError, FileNotFoundError) as error:
        raise ConfigError(
            "not_packaged",
            f"the packaged weights of {training.name} are not one file with all layers that are kept; leave out "
            f"--from-packaged: {str(error)[:200]}",
        ) from error
    return replace(training, lr=training.lr * rate, start_share=share)


def render(name: str, work: Path, progress: Callable[[str], None]) -> None:
    """Render what a network learns from, and what it is judged on, and say how far that is. It takes minutes."""
    from anything3d.mini.training.data import render_data

    both = ("objects", "crops")
    looked_at = {"sam": ("scenes",), "blip": both, "clip": both, "pointe": both}.get(name, ("objects",))
    for data in looked_at:
        if name != "taesd":  # it draws what it learns from
            render_data(data, "training", work, progress)
        render_data(data, "held-out", work, progress)


def training_of(name: str, work: Path, seed: int, device: str) -> Training:
    """The training of one of NETWORKS; its data are rendered if they are not there."""
    from anything3d.mini.training import blip, clip, diffusion, dino, pointe, sam, taesd, vae

    makers: dict[str, Callable[[Path, int, str], Training]] = {
        "vae": vae.training,
        "diffusion": diffusion.training,
        "taesd": taesd.training,
        "sam": sam.training,
        "blip": blip.training,
        "clip": clip.training,
        "dino": dino.training,
        "pointe": pointe.base,
        "pointe-upsampler": pointe.upsampler,
    }
    return makers[name](work, seed, device)


def install(name: str, work: Path) -> Path:
    """Replace the packaged weights of a network by those below WORK/weights, and note their digests.

    Raises: WeightsError if they are not complete.
    """
    folder = NETWORKS[name][0]
    parts = [other for other, (where, _) in NETWORKS.items() if where == folder]
    if missing := [part for part in parts if not (work / part / "checkpoint.pt").exists()]:
        raise WeightsError("not_trained", f"{folder} also needs {', '.join(missing)}; train that first")
    shutil.rmtree(PACKAGED / folder, ignore_errors=True)
    shutil.copytree(work / "weights" / folder, PACKAGED / folder)
    write_manifest(folder, trained=True)
    return PACKAGED / folder

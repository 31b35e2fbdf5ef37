"""Training of the mini diffusion model's autoencoder: 64 px pictures to 16 x 16 x 4 latents and back."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anything3d.mini import diffusion
from anything3d.mini.training.batch import draw, every, rgba
from anything3d.mini.training.data import Objects, load_objects
from anything3d.mini.training.loop import Training
from anything3d.photo.pixels import over
from anything3d.quality.metrics import psnr_db

BATCH = 16
KL = 1e-3  # weight of the divergence from a unit normal, on the mean over latents
WHITE_SHARE = 0.4  # of the pictures; the others are on some grey, so that white things can be told from no thing
JUDGED = 128  # held-out pictures


def training(work: Path, seed: int, device: str) -> Training:
    objects, held_out = load_objects("training", work), load_objects("held-out", work)
    vae: Any = diffusion.build(seed).vae
    vae.to(device, memory_format=torch.channels_last)

    def loss(generator: torch.Generator) -> Tensor:
        pictures = pictures_of(objects, BATCH, generator).to(device) * 2 - 1
        posterior = vae.encode(pictures).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        return F.mse_loss(decoded, pictures) + 0.1 * F.l1_loss(decoded, pictures) + KL * posterior.kl().mean() / 1024

    def score() -> dict[str, float]:
        pictures, latents = _judged(held_out, vae, device)
        return {
            "psnr_db": float(psnr_db(vae.decode(latents).sample / 2 + 0.5, pictures).mean()),
            "latent_std": float(latents.std()),
        }

    def save(folder: Path) -> None:
        _, latents = _judged(held_out, vae, device)
        diffusion.save_vae(vae, folder / "diffusion", scaling_factor=round(1 / float(latents.std()), 4))

    return Training("vae", vae, loss, save, score, steps=3000, lr=2e-3, bf16=True, every=500)


def pictures_of(objects: Objects, count: int, generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """Views on white or on some grey, in [0, 1]."""
    return on_grounds(rgba(objects, draw(objects, count, generator)), generator)


def on_grounds(views: Float[Tensor, "B 4 S S"], generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """Each view over white, or over a grey of its own."""
    white, grey = torch.rand(2, len(views), 1, 1, 1, generator=generator)
    ground = torch.where(white < WHITE_SHARE, 1.0, grey)
    return views[:, :3] * views[:, 3:] + ground * (1 - views[:, 3:])


@torch.no_grad()
def _judged(held_out: Objects, vae: nn.Module, device: str) -> tuple[Tensor, Tensor]:
    pictures = over(rgba(held_out, every(held_out, JUDGED)), 1.0).to(device)
    encode: Any = vae.encode
    return pictures, encode(pictures * 2 - 1).latent_dist.mode()

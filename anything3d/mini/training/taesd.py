"""Training of the mini TAESD: the latents of the finished VAE from pictures, and the pictures from these latents.

It learns from drawn pictures (`encoder.pictures`), each seen once. The objects of the mini world judge it.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anything3d.mini import taesd
from anything3d.mini.training.batch import every, rgba
from anything3d.mini.training.data import VIEW_PX, load_objects
from anything3d.mini.training.loop import Training
from anything3d.models.encoder import explained, pictures
from anything3d.photo.pixels import over
from anything3d.quality.metrics import psnr_db

BATCH = 16
JUDGED = 128  # held-out views


def training(work: Path, seed: int, device: str) -> Training:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(work / "weights" / "diffusion" / "vae", torch_dtype=torch.float32)
    vae = vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    held_out = load_objects("held-out", work)
    views = over(rgba(held_out, every(held_out, JUDGED)), 1.0).to(device)
    network: Any = taesd.build(seed)
    network.to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(drawn: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 4 h w"]:
        return vae.encode(drawn * 2 - 1).latent_dist.mode() * vae.config["scaling_factor"]

    def loss(generator: torch.Generator) -> Tensor:
        drawn = pictures(BATCH, VIEW_PX, generator).to(device)
        latents = encode(drawn)
        decoded = network.decode(latents).sample
        return F.mse_loss(network.encode(drawn * 2 - 1).latents, latents) + F.mse_loss(decoded, drawn * 2 - 1)

    def score() -> dict[str, float]:
        latents = encode(views)
        return {
            "explained": explained(network.encode(views * 2 - 1).latents, latents),
            "psnr_db": float(psnr_db(network.decode(latents).sample / 2 + 0.5, views).mean()),
        }

    def save(folder: Path) -> None:
        taesd.save(network, folder / "taesd")

    return Training("taesd", network, loss, save, score, steps=1500, lr=3e-3, bf16=True, every=500)

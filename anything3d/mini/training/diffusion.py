"""Training of the mini Stable Diffusion: text encoder, UNet and ControlNet, on the finished VAE's latents."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d import seed as seeds
from anything3d.distil.views import name_views
from anything3d.mini import diffusion
from anything3d.mini.shapes import PIGMENTS
from anything3d.mini.training.batch import Rows, draw, every, rgba
from anything3d.mini.training.clip import tokens_of
from anything3d.mini.training.data import VIEW_PX, Objects, load_objects
from anything3d.mini.training.loop import Training
from anything3d.mini.training.vae import on_grounds
from anything3d.mini.words import COLORS, SHAPES, caption
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.weights import Place
from anything3d.quality.metrics import mask_iou
from anything3d.settings.reconstruct import ViewConfig
from anything3d.space.cloud import Cloud
from anything3d.space.depth import depth_hint, splat

BATCH = 64
HINTED = 0.6  # of the steps
NO_TEXT = 0.12  # of the rows, for guidance
PREFIXED = 0.5  # of the others: the view's name before the caption
HINT_POINTS = (256, 1024)  # of the clouds that hints are made of
DISC = 0.6  # radius of their discs * sqrt(points), of the image side; as in reconstruct
CLOUD_NOISE = 0.03  # canonical units at most, ...
CLOUD_STRETCH = 0.1  # ... and along each axis at most: clouds are never quite right
ALPHAS_BAR = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)  # as `diffusion.save_denoiser`
JUDGED, DRAWN = 128, 36  # held-out views for the loss; for whole pictures
DRAW_STEPS, DRAW_CFG = 25, 3.0  # DDIM
CONTRAST = 0.12  # of a pixel with the ground, from which it belongs to a thing


class Trained(nn.Module):
    def __init__(self, networks: diffusion.Networks) -> None:
        super().__init__()
        self.unet: Any = networks.unet.to(memory_format=torch.channels_last)
        self.controlnet: Any = networks.controlnet.to(memory_format=torch.channels_last)
        self.text_encoder: Any = networks.text_encoder

    def forward(
        self,
        noisy: Float[Tensor, "B 4 h w"],
        t: Int[Tensor, "B"],
        ids: Int[Tensor, "B L"],
        hint: Float[Tensor, "B 3 S S"] | None,
    ) -> Float[Tensor, "B 4 h w"]:
        """The noise in `noisy`."""
        text = self.text_encoder(input_ids=ids).last_hidden_state
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        down, middle = None, None
        if hint is not None:
            down, middle = self.controlnet(noisy, t, text, controlnet_cond=hint, return_dict=False)
        return self.unet(
            noisy, t, text, down_block_additional_residuals=down, mid_block_additional_residual=middle,
            return_dict=False,
        )[0]  # fmt: skip


def training(work: Path, seed: int, device: str) -> Training:
    from diffusers import AutoencoderKL

    objects, held_out = load_objects("training", work), load_objects("held-out", work)
    vae = AutoencoderKL.from_pretrained(work / "weights" / "diffusion" / "vae", torch_dtype=torch.float32)
    vae = vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    networks = diffusion.build(seed)
    trained = Trained(networks).to(device)
    alphas_bar = ALPHAS_BAR.to(device)

    @torch.no_grad()
    def encode(pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 4 h w"]:
        return vae.encode(pictures.to(device) * 2 - 1).latent_dist.mode() * vae.config["scaling_factor"]

    def error(rows: Rows, ids: Tensor, hinted: bool, source: Objects, generator: torch.Generator) -> Float[Tensor, "B"]:
        latents = encode(on_grounds(rgba(source, rows), generator))
        t = torch.randint(len(alphas_bar), (len(rows),), generator=generator).to(device)
        eps = torch.randn(latents.shape, generator=generator).to(device)
        alpha_bar = alphas_bar[t].view(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * eps
        hint = hints(source, rows, generator).to(device) if hinted else None
        return (trained(noisy, t, ids.to(device), hint) - eps).square().flatten(1).mean(1)

    def loss(generator: torch.Generator) -> Tensor:
        rows = draw(objects, BATCH, generator)
        hinted = float(torch.rand((), generator=generator)) < HINTED
        return error(rows, tokens_of(prompts(objects, rows, generator)), hinted, objects, generator).mean()

    def save(folder: Path) -> None:
        diffusion.save_denoiser(networks, folder / "diffusion")

    def score() -> dict[str, float]:
        rows = every(held_out, JUDGED)
        true = tokens_of(captions_of(held_out, rows))
        wrong = tokens_of([_recolored(held_out, rows, row) for row in range(len(rows))])
        kinds = {"full": (true, True), "wrong_color": (wrong, True), "no_depth": (true, False)}
        losses = {
            f"loss_{name}": float(error(rows, ids, hinted, held_out, torch.Generator().manual_seed(0)).mean())
            for name, (ids, hinted) in kinds.items()
        }
        saved = load_denoiser(str((work / "weights" / "diffusion").resolve()), Place(device))
        return losses | judge_pictures(saved, held_out)

    return Training("diffusion", trained, loss, save, score, steps=4500, lr=1.5e-3, every=500)


def prompts(objects: Objects, rows: Rows, generator: torch.Generator) -> list[str]:
    """Captions, some behind the name of their view, some left out."""
    config = ViewConfig()
    names = name_views(
        objects.azimuth_deg[rows.item, rows.view], objects.elevation_deg[rows.item, rows.view], config.overhead_deg
    ).tolist()
    empty, prefixed = torch.rand(2, len(rows), generator=generator).tolist()
    return [
        "" if empty[row] < NO_TEXT else f"{config.prefixes[names[row]]} {text}" if prefixed[row] < PREFIXED else text
        for row, text in enumerate(captions_of(objects, rows))
    ]


def hints(objects: Objects, rows: Rows, generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """Depth of sparse and somewhat wrong clouds of the objects, seen as the pictures are."""
    low, high = HINT_POINTS
    count = int(torch.randint(low, high + 1, (), generator=generator))
    chosen = torch.randint(objects.points.shape[1], (len(rows), count, 1), generator=generator)
    points = objects.points[rows.item].take_along_dim(chosen, 1).float()
    size, stretch = torch.rand(2, len(rows), 1, 3, generator=generator)
    points = points * (1 + CLOUD_STRETCH * (2 * stretch - 1))
    points = points + CLOUD_NOISE * size[..., :1] * torch.randn(points.shape, generator=generator)
    depth, _, _ = splat(
        Cloud(points, torch.zeros_like(points)), objects.cameras(rows.item, rows.view), VIEW_PX, DISC / count**0.5
    )
    return depth_hint(depth)


def captions_of(objects: Objects, rows: Rows) -> list[str]:
    pairs = zip(objects.shape[rows.item].tolist(), objects.color[rows.item].tolist(), strict=True)
    return [caption(SHAPES[shape], COLORS[color]) for shape, color in pairs]


def _recolored(objects: Objects, rows: Rows, row: int) -> str:
    """The caption with a colour that is wrong."""
    shape, color = int(objects.shape[rows.item[row]]), int(objects.color[rows.item[row]])
    return caption(SHAPES[shape], COLORS[(color + 1 + row % (len(COLORS) - 1)) % len(COLORS)])


def judge_pictures(denoiser: Denoiser, held_out: Objects) -> dict[str, float]:
    """Pictures drawn from captions and depth: do they have the right colour and outline?"""
    rows = every(held_out, DRAWN)
    hint = hints(held_out, rows, torch.Generator().manual_seed(0))
    pictures = draw_pictures(denoiser, captions_of(held_out, rows), hint)
    ground = pictures[..., :: VIEW_PX - 1, :: VIEW_PX - 1].mean((2, 3), keepdim=True)  # the corners: any grey
    solid = (pictures - ground).abs().amax(1) > CONTRAST
    true = rgba(held_out, rows)[:, 3] > 0.5
    pigments = F.normalize(torch.tensor([PIGMENTS[name] for name in COLORS]), dim=-1)
    shown = (pictures * true[:, None]).sum((2, 3)) / true.sum((1, 2))[:, None].clamp(min=1)
    nearest = (F.normalize(shown, dim=-1) @ pigments.T).argmax(1)
    return {
        "color_accuracy": float((nearest == held_out.color[rows.item]).float().mean()),
        "outline_iou": float(mask_iou(solid, true).mean()),
    }


@torch.no_grad()
def draw_pictures(
    denoiser: Denoiser, captions: list[str], hint: Float[Tensor, "B 3 S S"] | None
) -> Float[Tensor, "B 3 S S"]:
    """Pictures in [0, 1] by DDIM (Song et al. 2021) with guidance; each caption has its own noise."""
    alphas_bar = denoiser.alphas_cumprod
    texts = denoiser.encode_text(captions), denoiser.encode_text([""] * len(captions))
    shape = (denoiser.latent_channels, *(denoiser.image_size // denoiser.latent_scale,) * 2)
    owners = seeds.generators(0, "pictures", [str(row) for row in range(len(captions))])
    latents = seeds.randn(shape, owners, denoiser.device)
    hint = None if hint is None else hint.to(denoiser.device)
    times = torch.linspace(len(alphas_bar) - 1, 0, DRAW_STEPS).round().long().tolist()
    for t, later in zip(times, [*times[1:], -1], strict=True):
        rows = torch.full((len(captions),), t, device=denoiser.device)
        eps = denoiser.guided_noise(latents, rows, texts, hint, DRAW_CFG)
        now, then = alphas_bar[t], alphas_bar[later] if later >= 0 else torch.ones_like(alphas_bar[t])
        clean = (latents - (1 - now).sqrt() * eps) / now.sqrt()
        latents = then.sqrt() * clean + (1 - then).sqrt() * eps
    return denoiser.decode_latents(latents).cpu()

"""Training of the mini Point-E: the base network on the finished mini CLIP's image tokens, and the upsampler."""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from anything3d import seed as seeds
from anything3d.lift import canonical
from anything3d.mini import pointe
from anything3d.mini.training.batch import (
    Paint,
    Rows,
    crops,
    cut_by_sam,
    distances,
    draw,
    draw_cut_by_sam,
    every,
    seen_alone,
)
from anything3d.mini.training.clip import SHAPE_READER
from anything3d.mini.training.data import POINTS, Objects, load_crops, load_objects
from anything3d.mini.training.loop import Training
from anything3d.models.clip import Clip, load_clip
from anything3d.models.pointe import PointDenoiser, sample
from anything3d.models.pointe.config import CHANNEL_BIASES, CHANNEL_SCALES
from anything3d.models.pointe.schedule import Schedule, alphas_cumprod
from anything3d.models.weights import Place
from anything3d.quality.metrics import chamfer
from anything3d.settings.lift import LiftConfig

BATCH, UPSAMPLER_BATCH = 32, 12
CUT_BATCH = 32  # crops that SAM's masks cut, whose signed distances the base network learns beside those of a batch
POINTS_AT_ONCE = 96  # that a network learns on; each makes 512
SHAPE_WEIGHT = 1.0  # of the error in signed distances beside that of colours
UNCONDITIONAL = 0.1  # of the rows: without an image, for guidance
SIGMA = (0.003, 1.0)  # noise levels, drawn evenly in the logarithm; only the last ones of a sampling settle colours
COARSE_NOISE = 0.03  # canonical units, at most, of the cloud that the upsampler is given: a base's mistakes
COARSE_COLOR_NOISE = 12.0  # of 255
JUDGED = 24  # held-out crops whose clouds are judged
JUDGED_SHAPES = 256  # held-out crops whose signed distances are judged, beside all that SAM's masks cut


def base(work: Path, seed: int, device: str) -> Training:
    objects, held_out = load_objects("training", work), load_objects("held-out", work)
    cut, held_out_cut = load_crops("training", work), load_crops("held-out", work)
    clip = load_clip(str((work / "weights" / "clip").resolve()), Place(device))
    network = pointe.build(seed).base.to(device)
    read_shapes(network, work)
    noise = Noise("base", device)

    def loss(generator: torch.Generator) -> Tensor:
        rows = draw(objects, BATCH, generator)
        paint = Paint.draw(BATCH, generator)
        clean = model_units(objects, rows, POINTS_AT_ONCE, generator, paint).to(device)
        by_sam = draw_cut_by_sam(cut, CUT_BATCH, generator)
        embeddings = clip.image_grid(paint.apply(crops(objects, rows, generator)))
        cut_embeddings = clip.image_grid(Paint.draw(CUT_BATCH, generator).apply(by_sam.pixels))
        true = torch.cat([distances(objects, rows), by_sam.distances]).to(device)
        shape = shape_error(network, torch.cat([embeddings, cut_embeddings]), true)
        return noise.loss(network, clean, embeddings, None, generator) + SHAPE_WEIGHT * shape

    def score() -> dict[str, float]:
        alone = seen_alone(held_out, every(held_out, JUDGED_SHAPES), torch.Generator().manual_seed(0))
        by_sam = cut_by_sam(held_out_cut, torch.arange(len(held_out_cut)))
        shapes = {
            name: float(shape_error(network, clip.image_grid(seen.pixels), seen.distances.to(device)))
            for name, seen in (("sdf_error", alone), ("sam_sdf_error", by_sam))
        }
        return judge_drafts(network, clip, held_out, JUDGED) | shapes

    def save(folder: Path) -> None:
        pointe.save_base(network, folder)

    def load(folder: Path) -> None:
        network.load_state_dict(load_file(folder / "pointe" / "model.safetensors"))
        read_shapes(network, work)

    return Training("pointe", network, loss, save, score, steps=2500, lr=7e-4, bf16=True, every=250, load=load)


def upsampler(work: Path, seed: int, device: str) -> Training:
    objects, held_out = load_objects("training", work), load_objects("held-out", work)
    clip = load_clip(str((work / "weights" / "clip").resolve()), Place(device))
    network = pointe.build(seed).upsampler.to(device)
    read_shapes(network, work)
    noise = Noise("upsample", device)
    coarse = network.config.cond_ctx

    def loss(generator: torch.Generator) -> Tensor:
        rows = draw(objects, UPSAMPLER_BATCH, generator)
        paint = Paint.draw(UPSAMPLER_BATCH, generator)
        clean = model_units(objects, rows, coarse + POINTS_AT_ONCE, generator, paint).to(device)
        low_res = spoil(data_units(clean[..., :coarse]), generator)
        embeddings = clip.image_grid(paint.apply(crops(objects, rows, generator)))
        return noise.loss(network, clean[..., coarse:], embeddings, low_res, generator)

    def score() -> dict[str, float]:
        rows = every(held_out, JUDGED)
        generator = torch.Generator().manual_seed(1)
        low_res = spoil(data_units(model_units(held_out, rows, coarse, generator).to(device)), generator)
        embeddings = clip.image_grid(_judged_crops(held_out, rows))
        noise = _noise_for(rows, network)
        dense = sample(network, "upsample", noise, embeddings, config.upsampler_sampler, low_res=low_res)
        return _distances(torch.cat([low_res, dense], dim=2), held_out, rows)

    def save(folder: Path) -> None:
        pointe.save_upsampler(network, folder)

    def load(folder: Path) -> None:
        network.load_state_dict(load_file(folder / "pointe-upsampler" / "model.safetensors"))
        read_shapes(network, work)

    config = LiftConfig()
    return Training("pointe-upsampler", network, loss, save, score, steps=500, lr=6e-4, bf16=True, every=250, load=load)


def shape_error(
    network: PointDenoiser, embeddings: Float[Tensor, "B D G"], true: Float[Tensor, "B z y x"]
) -> Float[Tensor, ""]:
    """Mean error of the signed distances that points look up, longest sides."""
    return F.l1_loss(network.shape(network.image_pool(embeddings)).float(), true)


def read_shapes(network: PointDenoiser, work: Path) -> None:
    """Give the network the layers that CLIP was trained with, so that it knows from the first step what CLIP sees."""
    parts = {"pool": network.image_pool} | ({"grid": network.shape.grid} if network.config.shape_cells else {})
    kept = load_file(work / "weights" / SHAPE_READER)
    nn.ModuleDict(parts).load_state_dict({key: value for key, value in kept.items() if key.split(".")[0] in parts})


def judge_drafts(network: PointDenoiser, clip: Clip, held_out: Objects, count: int) -> dict[str, float]:
    """How far clouds of the base network are from the first `count` held-out objects, seen in crops."""
    rows, config = every(held_out, count), LiftConfig()
    embeddings = clip.image_grid(_judged_crops(held_out, rows))
    drafts = sample(network, "base", _noise_for(rows, network), embeddings, config.base_sampler)
    return _distances(drafts, held_out, rows)


class Noise:
    """Denoising as a training task: levels and the loss."""

    def __init__(self, schedule: Schedule, device: str) -> None:
        self.alphas_bar = torch.tensor(alphas_cumprod(schedule)).to(device)
        self.sigmas = (1 / self.alphas_bar - 1).sqrt()

    def loss(
        self,
        network: PointDenoiser,
        clean: Float[Tensor, "B 6 N"],
        embeddings: Float[Tensor, "B D G"],
        low_res: Float[Tensor, "B 6 M"] | None,
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Mean square error of the colours; places are known in closed form."""
        count = len(clean)
        t = self._times(count, generator).to(clean.device)
        alpha_bar = self.alphas_bar[t][:, None, None]
        eps = torch.randn(clean.shape, generator=generator).to(clean.device)
        seen = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * eps
        kept = (torch.rand(count, 1, 1, generator=generator) >= UNCONDITIONAL).to(clean)
        predicted = network(seen, t, embeddings=embeddings * kept, low_res=None if low_res is None else low_res * kept)
        return (predicted.float() - clean)[:, 3:].square().mean()

    def _times(self, count: int, generator: torch.Generator) -> Int[Tensor, "B"]:
        low, high = torch.tensor(SIGMA).log()
        sigma = (low + (high - low) * torch.rand(count, generator=generator)).exp()
        return torch.searchsorted(self.sigmas.cpu(), sigma).clamp(max=len(self.sigmas) - 1)


def model_units(
    objects: Objects, rows: Rows, count: int, generator: torch.Generator, paint: Paint | None = None
) -> Float[Tensor, "B 6 N"]:
    """Random surface points in Point-E's axes (z up, front -y), about -1..1."""
    chosen = torch.rand(len(rows), POINTS, generator=generator).argsort(1)[:, :count, None]
    points = objects.points[rows.item].take_along_dim(chosen, 1).float()
    colors = objects.colors[rows.item].take_along_dim(chosen, 1).float().mT
    x, y, z = points.unbind(-1)
    data = torch.cat([torch.stack([x, -z, y], dim=1), colors if paint is None else paint.apply(colors)], dim=1)
    return data * torch.tensor(CHANNEL_SCALES)[:, None] + torch.tensor(CHANNEL_BIASES)[:, None]


def data_units(cloud: Float[Tensor, "B 6 N"]) -> Float[Tensor, "B 6 N"]:
    return (cloud - cloud.new_tensor(CHANNEL_BIASES)[:, None]) / cloud.new_tensor(CHANNEL_SCALES)[:, None]


def spoil(cloud: Float[Tensor, "B 6 N"], generator: torch.Generator) -> Float[Tensor, "B 6 N"]:
    """With errors in position and colour, as large for all points of a cloud."""
    size = torch.rand(len(cloud), 1, 1, generator=generator)
    scale = torch.tensor([COARSE_NOISE] * 3 + [COARSE_COLOR_NOISE] * 3)[:, None]
    return cloud + (size * scale * torch.randn(cloud.shape, generator=generator)).to(cloud.device)


def _judged_crops(objects: Objects, rows: Rows) -> Float[Tensor, "B 3 S S"]:
    return crops(objects, rows, torch.Generator().manual_seed(0))


def _noise_for(rows: Rows, network: PointDenoiser) -> Float[Tensor, "B 6 N"]:
    shape = (6, network.config.n_ctx)
    return seeds.randn(shape, seeds.generators(0, "judge", [str(row) for row in rows.item.tolist()]))


def _distances(channels: Float[Tensor, "B 6 N"], objects: Objects, rows: Rows) -> dict[str, float]:
    """Chamfer distances to the truth, to another object's truth, and between two samples of one truth.

    And the mean difference of a point's colour from that of the nearest true point, 0..1.
    """
    lifted, _ = canonical(channels.cpu())
    cloud, count = lifted.points, channels.shape[2]
    true = objects.points[rows.item].float()
    nearest = torch.cdist(cloud, true[:, :1024]).argmin(2)
    color = (objects.colors[rows.item, :1024].float() / 255).take_along_dim(nearest[..., None], 1)
    return {
        "color_error": float((lifted.colors - color).abs().mean()),
        "chamfer": float(chamfer(cloud, true[:, :1024]).mean()),
        "chamfer_other": float(chamfer(cloud, true[:, :1024].roll(1, 0)).mean()),
        "chamfer_floor": float(chamfer(true[:, 1024 : 1024 + count], true[:, :1024]).mean()),
    }

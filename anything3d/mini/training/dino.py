"""Training of the mini DINOv2: views of one solid are near each other, and those of other solids are far.

One view of a pair is a crop as the pipeline makes it. The other one is a clean view from another side, as a turntable
shows it. The official network was trained otherwise: on photographs, by its own teacher, without pairs of views.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from anything3d.mini import dino
from anything3d.mini.training.batch import Paint, Rows, crops, every, rgba
from anything3d.mini.training.data import VIEWS, Objects, load_objects
from anything3d.mini.training.loop import Training
from anything3d.photo.pixels import WHITE, over

BATCH = 32  # different solids of a step, each seen twice
TEMPERATURE = 0.1  # of the cosines
GREY = 0.5  # share of the steps in which all solids are grey, so that only their shapes differ
MOST_ROOM = (
    1.6  # a clean view is up to so many times as wide as a crop around the same solid: turntables show much white
)
JUDGED = 256  # held-out solids


def training(work: Path, seed: int, device: str) -> Training:
    objects, held_out = load_objects("training", work), load_objects("held-out", work)
    network: Any = dino.build(seed).to(device)

    def look(pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        seen = network(pixel_values=standardise(pixels).to(device)).pooler_output
        return F.normalize(seen.float(), dim=-1)

    def loss(generator: torch.Generator) -> Tensor:
        item = torch.randperm(len(objects), generator=generator)[:BATCH]  # no solid twice: it would be its own opposite
        rows = Rows(item, torch.randint(VIEWS, (len(item),), generator=generator))
        paint = Paint.draw(len(rows), generator)
        if float(torch.rand((), generator=generator)) < GREY:
            paint = grey(len(rows))
        pair = pair_of(objects, rows, paint, generator)
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the fused one takes most of the step, all of it backwards
            photos, views = look(torch.cat(pair)).chunk(2)
        logits = photos @ views.T / TEMPERATURE
        same = torch.arange(len(rows), device=logits.device)
        return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2

    def score() -> dict[str, float]:
        rows = every(held_out, JUDGED)
        scores = {}
        for name, paint in (("", plain(len(rows))), ("grey_", grey(len(rows)))):
            photos, views = look(torch.cat(pair_of(held_out, rows, paint, torch.Generator().manual_seed(0)))).chunk(2)
            cosines = (photos @ views.T).cpu()
            same = cosines.diagonal()
            others = cosines[~torch.eye(len(same), dtype=torch.bool)].view(len(same), -1)
            scores[f"{name}first"] = float((same > others.amax(1)).float().mean())
            scores[f"{name}above_others"] = float((same[:, None] > others).float().mean())
            scores[f"{name}cosine_same"], scores[f"{name}cosine_other"] = float(same.mean()), float(others.mean())
        return scores

    def save(folder: Path) -> None:
        dino.save(network, folder / "dino")

    return Training("dino", network, loss, save, score, steps=2000, lr=2e-3, bf16=True, every=200)


def standardise(pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """What the image processor does to pictures of the right size."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (dino.MEAN, dino.STD))
    return (pixels - mean) / std


def plain(count: int) -> Paint:
    """The solids' own colours."""
    return Paint(torch.arange(3).expand(count, 3), torch.zeros(count))


def grey(count: int) -> Paint:
    """No hue: each colour as bright as its brightest channel."""
    return Paint(torch.arange(3).expand(count, 3), torch.ones(count))


def pair_of(
    objects: Objects, rows: Rows, paint: Paint, generator: torch.Generator
) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B 3 S S"]]:
    """Each solid as a crop shows it, and from another side on white, both in [0, 1] and in the same paint."""
    count = len(rows)
    photos = crops(objects, rows, generator)
    turned = 1 + torch.randint(VIEWS - 1, (count,), generator=generator)
    views = rgba(objects, Rows(rows.item, (rows.view + turned) % VIEWS))
    room = 1 + (MOST_ROOM - 1) * torch.rand(count, 1, 1, generator=generator)
    grid = F.affine_grid(room * torch.eye(2, 3), [*views.shape], align_corners=False)
    return paint.apply(photos), paint.apply(over(F.grid_sample(views, grid, align_corners=False), WHITE))

"""Training of the mini CLIP: images and captions in one space, and image tokens that tell the object's shape.

Trained with captions alone, the tokens would lose proportions and viewpoint. Point-E needs both.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from anything3d.mini import clip, pointe
from anything3d.mini.tokens import clip_vocabulary
from anything3d.mini.training.batch import Paint, Rows, crops, distances, draw, every
from anything3d.mini.training.data import Objects, load_objects
from anything3d.mini.training.loop import Training
from anything3d.mini.words import COLORS, SHAPES, caption

BATCH = 64
SHAPE_WEIGHT, VIEW_WEIGHT = 20.0, 0.5  # of the dropped layers' losses, beside the contrast's
JUDGED = 256  # held-out crops
SHAPE_READER = "clip-shape.safetensors"


class Trained(nn.Module):
    """CLIP, Point-E's layers that read a shape from its tokens, and one that is dropped: the camera's direction.

    Point-E's training begins with those layers as this leaves them, in the file SHAPE_READER beside CLIP's folder.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.clip: Any = clip.build(seed)
        base = pointe.build(seed).base
        self.reader = nn.ModuleDict({"pool": base.image_pool, "grid": base.shape.grid})
        self.view = nn.Linear(base.config.pooled_width, 3)


def training(work: Path, seed: int, device: str) -> Training:
    objects, held_out = load_objects("training", work), load_objects("held-out", work)
    trained = Trained(seed).to(device)
    network = trained.clip
    texts = tokens_of(all_captions()).to(device)

    def look(pixels: Float[Tensor, "B 3 S S"]) -> tuple[Tensor, Tensor]:
        """Unit embeddings, and what the dropped layers see."""
        seen = network.vision_model(pixel_values=standardise(pixels))
        embedding = F.normalize(network.visual_projection(seen.pooler_output).float(), dim=-1)
        return embedding, trained.reader["pool"](seen.last_hidden_state[:, 1:].mT)

    def read(ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        pooled = network.text_model(input_ids=ids).pooler_output
        return F.normalize(network.text_projection(pooled).float(), dim=-1)

    def loss(generator: torch.Generator) -> Tensor:
        rows = draw(objects, BATCH, generator)
        paint = Paint.draw(BATCH, generator)  # crops in other colours count for shape and view only
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the fused one takes most of the step, all of it backwards
            images, hidden = look(paint.apply(crops(objects, rows, generator)).to(device))
        true = ~paint.changes
        pair = pair_of(objects, rows)[true].to(device)
        logits = network.logit_scale.exp().clamp(max=100) * images[true.to(device)] @ read(texts[pair]).T
        same = (pair[:, None] == pair).float()
        same = same / same.sum(1, keepdim=True)
        contrast = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        shape = F.l1_loss(trained.reader["grid"](hidden), distances(objects, rows).flatten(1).to(device))
        view = F.mse_loss(trained.view(hidden), objects.pose[rows.item, rows.view, :3, 2].to(device))
        return contrast + SHAPE_WEIGHT * shape + VIEW_WEIGHT * view

    def score() -> dict[str, float]:
        rows = every(held_out, JUDGED)
        images, hidden = look(crops(held_out, rows, torch.Generator().manual_seed(0)).to(device))
        said = (images @ read(texts).T).argmax(1).cpu()
        sdf = distances(held_out, rows).flatten(1)
        view = F.cosine_similarity(trained.view(hidden).cpu(), held_out.pose[rows.item, rows.view, :3, 2])
        told = trained.reader["grid"](hidden).cpu()
        solid, true = told < 0, sdf < 0
        return {
            "shape_accuracy": float((said // len(COLORS) == held_out.shape[rows.item]).float().mean()),
            "color_accuracy": float((said % len(COLORS) == held_out.color[rows.item]).float().mean()),
            "sdf_error": float((told - sdf).abs().mean()),
            "solid_iou": float(((solid & true).sum(1) / (solid | true).sum(1).clamp(min=1)).mean()),
            "view_cosine": float(view.mean()),
        }

    def save(folder: Path) -> None:
        clip.save(network, folder / "clip")
        save_file(trained.reader.state_dict(), folder / SHAPE_READER)

    return Training("clip", trained, loss, save, score, steps=16000, lr=1e-3, bf16=True, every=1000)


def standardise(pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """What the image processors of mini CLIP and mini BLIP do to crops of the right size."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (clip.MEAN, clip.STD))
    return (pixels - mean) / std


def all_captions() -> list[str]:
    """Of every pair, in the order of `pair_of`."""
    return [caption(shape, color) for shape in SHAPES for color in COLORS]


def pair_of(objects: Objects, rows: Rows) -> Int[Tensor, "B"]:
    return objects.shape[rows.item] * len(COLORS) + objects.color[rows.item]


def tokens_of(captions: list[str]) -> Int[Tensor, "B L"]:
    """Ids with start and end, padded with the end; every word of the mini world is one token."""
    vocabulary = clip_vocabulary()
    rows = [[vocabulary.start, *(vocabulary.ids[f"{word}</w>"] for word in text.split())] for text in captions]
    return torch.tensor([row + [vocabulary.end] * (clip.CONTEXT - len(row)) for row in rows])

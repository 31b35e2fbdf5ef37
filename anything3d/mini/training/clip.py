"""Training of the mini CLIP: images and captions in one space, and image tokens that tell the object's shape.

Trained with captions alone, the tokens would lose proportions and viewpoint. Point-E needs both.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from anything3d.mini import clip, pointe
from anything3d.mini.tokens import clip_vocabulary
from anything3d.mini.training.batch import Paint, Seen, cut_by_sam, draw_seen, every, seen_alone
from anything3d.mini.training.data import load_crops, load_objects
from anything3d.mini.training.loop import Training
from anything3d.mini.words import COLORS, SHAPES, caption
from anything3d.models.pointe import PointDenoiser

BATCH = 64  # half of them are crops that SAM's masks cut
SHAPE_WEIGHT, VIEW_WEIGHT = 20.0, 0.5  # of the dropped layers' losses, beside the contrast's
JUDGED = 256  # held-out crops with nearly true masks; those that SAM's masks cut are all judged
SHAPE_READER = "clip-shape.safetensors"


class Trained(nn.Module):
    """CLIP, Point-E's layers that read a shape from its tokens, and one that is dropped: the camera's direction.

    Point-E's training begins with those layers as this leaves them, in the file SHAPE_READER beside CLIP's folder.
    """

    def __init__(self, seed: int, base: PointDenoiser) -> None:
        super().__init__()
        self.clip: Any = clip.build(seed)
        self.reader = nn.ModuleDict({"pool": base.image_pool, "grid": base.shape.grid})
        self.view = nn.Linear(base.config.pooled_width, 3)


def training(work: Path, seed: int, device: str) -> Training:
    objects, held_out = load_objects("training", work), load_objects("held-out", work)
    cut, held_out_cut = load_crops("training", work), load_crops("held-out", work)
    base = pointe.build(seed).base
    trained = Trained(seed, base).to(device)
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
        seen = draw_seen(objects, cut, BATCH, generator)
        paint = Paint.draw(BATCH, generator)  # crops in other colours count for shape and view only
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the fused one takes most of the step, all of it backwards
            images, hidden = look(paint.apply(seen.pixels).to(device))
        true = ~paint.changes
        pair = seen.pair[true].to(device)
        logits = network.logit_scale.exp().clamp(max=100) * images[true.to(device)] @ read(texts[pair]).T
        same = (pair[:, None] == pair).float()
        same = same / same.sum(1, keepdim=True)
        contrast = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        shape = F.l1_loss(trained.reader["grid"](hidden), seen.distances.flatten(1).to(device))
        view = F.mse_loss(trained.view(hidden), seen.direction.to(device))
        return contrast + SHAPE_WEIGHT * shape + VIEW_WEIGHT * view

    def judge(seen: Seen) -> dict[str, float]:
        images, hidden = look(seen.pixels.to(device))
        said = (images @ read(texts).T).argmax(1).cpu()
        view = F.cosine_similarity(trained.view(hidden).cpu(), seen.direction)
        told, sdf = trained.reader["grid"](hidden).cpu(), seen.distances.flatten(1)
        solid, true = told < 0, sdf < 0
        return {
            "shape_accuracy": float((said // len(COLORS) == seen.shape).float().mean()),
            "color_accuracy": float((said % len(COLORS) == seen.color).float().mean()),
            "sdf_error": float((told - sdf).abs().mean()),
            "solid_iou": float(((solid & true).sum(1) / (solid | true).sum(1).clamp(min=1)).mean()),
            "view_cosine": float(view.mean()),
        }

    def score() -> dict[str, float]:
        alone = judge(seen_alone(held_out, every(held_out, JUDGED), torch.Generator().manual_seed(0)))
        by_sam = judge(cut_by_sam(held_out_cut, torch.arange(len(held_out_cut))))
        return alone | {f"sam_{name}": value for name, value in by_sam.items()}

    def load(folder: Path) -> None:
        network.load_state_dict(load_file(folder / "clip" / "model.safetensors"))
        base.load_state_dict(load_file(folder / "pointe" / "model.safetensors"))  # the reader's layers are its own

    def save(folder: Path) -> None:
        clip.save(network, folder / "clip")
        save_file(trained.reader.state_dict(), folder / SHAPE_READER)

    return Training("clip", trained, loss, save, score, steps=16000, lr=1e-3, bf16=True, every=1000, load=load)


def standardise(pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """What the image processors of mini CLIP and mini BLIP do to crops of the right size."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (clip.MEAN, clip.STD))
    return (pixels - mean) / std


def all_captions() -> list[str]:
    """Of every pair, in the order of `Seen.pair`."""
    return [caption(shape, color) for shape in SHAPES for color in COLORS]


def tokens_of(captions: list[str]) -> Int[Tensor, "B L"]:
    """Ids with start and end, padded with the end; every word of the mini world is one token."""
    vocabulary = clip_vocabulary()
    rows = [[vocabulary.start, *(vocabulary.ids[f"{word}</w>"] for word in text.split())] for text in captions]
    return torch.tensor([row + [vocabulary.end] * (clip.CONTEXT - len(row)) for row in rows])

"""Training of the mini BLIP, which captions crops."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from anything3d.mini import blip
from anything3d.mini.shapes import HELD_OUT_PAIRS
from anything3d.mini.tokens import bert_vocabulary
from anything3d.mini.training.batch import Paint, Seen, cut_by_sam, draw_seen, every, seen_alone
from anything3d.mini.training.clip import all_captions, standardise
from anything3d.mini.training.data import load_crops, load_objects
from anything3d.mini.training.loop import Training
from anything3d.mini.words import COLORS, SHAPES

BATCH = 48  # half of them are crops that SAM's masks cut
COLOR_WORDS = slice(0, 2)  # of the targets: "a red", before the shape
JUDGED = 256  # held-out crops with nearly true masks; those that SAM's masks cut are all judged


def training(work: Path, seed: int, device: str) -> Training:
    objects, held_out = load_objects("training", work), load_objects("held-out", work)
    cut, held_out_cut = load_crops("training", work), load_crops("held-out", work)
    network: Any = blip.build(seed).to(device)
    texts = tokens_of(all_captions()).to(device)
    padding = bert_vocabulary()["[PAD]"]

    def look(pixels: Tensor) -> Tensor:
        return network.vision_model(pixel_values=standardise(pixels.to(device))).last_hidden_state

    def logits_of(image: Tensor, ids: Tensor) -> Tensor:
        return network.text_decoder(input_ids=ids[:, :-1], encoder_hidden_states=image).logits.float()

    def loss(generator: torch.Generator) -> Tensor:
        """Of the words of true captions; painted crops get any colour's words, and only the rest counts.

        Without those the shape is guessed from the colour: a pair that no training set has is never said.
        """
        seen = draw_seen(objects, cut, BATCH, generator)
        paint = Paint.draw(BATCH, generator)
        any_color = torch.randint(len(COLORS), (BATCH,), generator=generator)
        color = torch.where(paint.changes, any_color, seen.color)
        ids = texts[(seen.shape * len(COLORS) + color).to(device)]
        target = ids[:, 1:].clone()
        target[paint.changes.to(device), COLOR_WORDS] = padding
        logits = logits_of(look(paint.apply(seen.pixels)), ids)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=padding)

    def say(pixels: Tensor) -> Tensor:
        """The likeliest of all captions, which is what a search finds once the network has learnt the language."""
        image = look(pixels)
        likelihood = [_log_likelihood(logits_of(image, ids.expand(len(pixels), -1)), ids, padding) for ids in texts]
        return torch.stack(likelihood, dim=1).argmax(1).cpu()

    def score() -> dict[str, float]:
        seen = seen_alone(held_out, every(held_out, JUDGED), torch.Generator().manual_seed(0))
        shape, color = _right(say(seen.pixels), seen)
        unseen = torch.isin(seen.pair, torch.tensor(unseen_pairs()))
        seen = cut_by_sam(held_out_cut, torch.arange(len(held_out_cut)))
        cut_shape, cut_color = _right(say(seen.pixels), seen)
        return {
            "shape_accuracy": float(shape.float().mean()),
            "color_accuracy": float(color.float().mean()),
            "unseen_pair_accuracy": float((shape & color)[unseen].float().mean()),
            "sam_shape_accuracy": float(cut_shape.float().mean()),
            "sam_color_accuracy": float(cut_color.float().mean()),
        }

    def save(folder: Path) -> None:
        blip.save(network, folder / "blip")

    return Training("blip", network, loss, save, score, steps=22000, lr=1e-3, bf16=True, every=1000)


def unseen_pairs() -> list[int]:
    """Those of `all_captions` that no training set has, by index."""
    pairs = [(shape, color) for shape in SHAPES for color in COLORS]
    return [index for index, pair in enumerate(pairs) if pair in HELD_OUT_PAIRS]


def tokens_of(captions: list[str]) -> Int[Tensor, "B L"]:
    """Ids between the tokens of begin and end, padded."""
    ids = bert_vocabulary()
    rows = [[ids["[DEC]"], *(ids[word] for word in text.split()), ids["[SEP]"]] for text in captions]
    longest = max(map(len, rows))
    return torch.tensor([row + [ids["[PAD]"]] * (longest - len(row)) for row in rows])


def _right(said: Int[Tensor, "B"], seen: Seen) -> tuple[Bool[Tensor, "B"], Bool[Tensor, "B"]]:
    """Whether the shape and the colour of captions, by index into `all_captions`, are true."""
    return said // len(COLORS) == seen.shape, said % len(COLORS) == seen.color


def _log_likelihood(logits: Tensor, ids: Int[Tensor, "L"], padding: int) -> Tensor:
    target = ids[1:].expand(len(logits), -1)
    values = logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    return (values * (target != padding)).sum(1)

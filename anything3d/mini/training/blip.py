"""Training of the mini BLIP, which captions crops."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from anything3d.mini import blip
from anything3d.mini.shapes import HELD_OUT_PAIRS
from anything3d.mini.tokens import bert_vocabulary
from anything3d.mini.training.batch import Paint, crops, draw, every
from anything3d.mini.training.clip import all_captions, pair_of, standardise
from anything3d.mini.training.data import load_objects
from anything3d.mini.training.loop import Training
from anything3d.mini.words import COLORS, SHAPES

BATCH = 48
COLOR_WORDS = slice(0, 2)  # of the targets: "a red", before the shape
JUDGED = 256  # held-out crops


def training(work: Path, seed: int, device: str) -> Training:
    objects, held_out = load_objects("training", work), load_objects("held-out", work)
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
        rows = draw(objects, BATCH, generator)
        paint = Paint.draw(BATCH, generator)
        any_color = torch.randint(len(COLORS), (BATCH,), generator=generator)
        pair = objects.shape[rows.item] * len(COLORS) + torch.where(paint.changes, any_color, objects.color[rows.item])
        ids = texts[pair.to(device)]
        target = ids[:, 1:].clone()
        target[paint.changes.to(device), COLOR_WORDS] = padding
        logits = logits_of(look(paint.apply(crops(objects, rows, generator))), ids)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=padding)

    def score() -> dict[str, float]:
        """The likeliest of all captions, which is what a search finds once the network has learnt the language."""
        rows = every(held_out, JUDGED)
        image = look(crops(held_out, rows, torch.Generator().manual_seed(0)))
        likelihood = torch.stack(
            [_log_likelihood(logits_of(image, ids.expand(len(rows), -1)), ids, padding) for ids in texts], dim=1
        )
        said = likelihood.argmax(1).cpu()
        shape = said // len(COLORS) == held_out.shape[rows.item]
        color = said % len(COLORS) == held_out.color[rows.item]
        unseen = torch.isin(pair_of(held_out, rows), torch.tensor(unseen_pairs()))
        return {
            "shape_accuracy": float(shape.float().mean()),
            "color_accuracy": float(color.float().mean()),
            "unseen_pair_accuracy": float((shape & color)[unseen].float().mean()),
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


def _log_likelihood(logits: Tensor, ids: Int[Tensor, "L"], padding: int) -> Tensor:
    target = ids[1:].expand(len(logits), -1)
    values = logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    return (values * (target != padding)).sum(1)

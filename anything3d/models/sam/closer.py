"""A closer look of SAM at a mask that it has made: at the part of the photo around it.

There the object has more of the encoder's pixels, so its outline is finer, and fewer neighbours are in the picture.
SAM's own data were made like this, too: small masks come from parts of the photo that were enlarged (Kirillov et al.
2023, appendix B).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from anything3d.models.sam.prompting import MASK_THRESHOLD, Features, Predicted, Sam, clamped
from anything3d.photo import mask
from anything3d.photo.mask import Box

MOST_ENLARGED = 4  # a pixel of the photo fills at most so many of the encoder along each side: there is no more to see

Window = tuple[slice, slice]  # rows and columns of the photo


@torch.inference_mode()
def look_closer(
    sam: Sam,
    image: UInt8[Tensor, "H W 3"],
    looks: Sequence[tuple[Predicted, Box]],
    zoom: float,
    images_per_batch: int,
    min_island_certainty: float = 0.0,
) -> list[Predicted]:
    """Each mask once more, after the same prompt in the part of the photo around `Box`, which is the mask's own.

    The part is a square whose side is `zoom` times the box's longer side, or a MOST_ENLARGED-th of what the encoder
    sees. It is moved and cut so that it lies in the photo, and made larger so that it holds the prompt. The mean of
    both looks' logits is the new mask. Of the three masks of a point, the one nearest to the first look's is taken:
    close by, the surest one may be a part of the object. Predicted IoU and stability stay those of the first look. A
    mask whose part is the whole photo stays as it is. `images_per_batch` parts are encoded at once.
    `min_island_certainty` is as in `Sam.sure_of`.
    """
    windows = [_window(box, first.prompt, zoom, image.shape[:2], sam.side_px) for first, box in looks]
    whole = (slice(0, image.shape[0]), slice(0, image.shape[1]))
    smaller = [place for place, window in enumerate(windows) if window != whole]
    closer = [first for first, _ in looks]
    for start in range(0, len(smaller), images_per_batch):
        places = smaller[start : start + images_per_batch]
        encoded = sam.encode([sam.read(image[windows[place]].contiguous()) for place in places])
        blended = [
            blend(sam, features, closer[place], windows[place], image.shape[:2], min_island_certainty)
            for place, features in zip(places, encoded, strict=True)
        ]
        for place, (solid, is_finite, doubtful) in zip(places, blended, strict=True):
            if not is_finite:
                closer[place] = replace(closer[place], predicted_iou=math.nan)
                continue
            share = max(closer[place].doubtful_share, float(doubtful))
            closer[place] = replace(closer[place], lengths=mask.runs_of(solid), doubtful_share=share)
    return closer


def _window(box: Box, prompt: Float[Tensor, "K 2"], zoom: float, size: Sequence[int], encoder_px: int) -> Window:
    """A square around the box, moved and cut to lie in the photo, and made larger to hold the prompt."""
    x, y, width, height = box
    side = max(math.ceil(zoom * max(width, height)), encoder_px // MOST_ENLARGED)
    first, last = prompt.amin(0).tolist(), prompt.amax(0).tolist()
    columns = _span(x + width / 2, side, first[0], last[0], size[1])
    return _span(y + height / 2, side, first[1], last[1], size[0]), columns


def _span(centre: float, side: int, first: float, last: float, length: int) -> slice:
    begin = min(max(0, round(centre - side / 2)), max(0, length - side))
    end = min(length, begin + side)
    return slice(max(0, min(begin, math.floor(first))), min(length, max(end, math.floor(last) + 1)))


def blend(
    sam: Sam,
    features: Features,
    first: Predicted,
    window: Window,
    size: Sequence[int],
    min_island_certainty: float = 0.0,
) -> tuple[Bool[Tensor, "H W"], Bool[Tensor, ""], Float[Tensor, ""]]:
    """The mask of both looks, whether what SAM says of the part is finite, and which share of it was doubtful islands.

    Only `Sam.sure_of` waits for the device.
    Candidates are enlarged one after another: of a large photo, several do not fit.
    """
    rows, columns = window
    shown, offset = (rows.stop - rows.start, columns.stop - columns.start), torch.tensor([columns.start, rows.start])
    prompt = (first.prompt - offset).flatten()[None]
    masks, predicted_iou = sam.decode(features, prompt, shown)
    masks, doubtful = sam.sure_of(masks[0], prompt.expand(masks.shape[1], -1), shown, min_island_certainty)
    logits = sam.enlarge(first.logits.to(masks.device).float()[None], (size[0], size[1]))[0]
    before = logits[window] > MASK_THRESHOLD
    nearest, most, share = before.float(), torch.full((), -1.0, device=masks.device), torch.zeros_like(doubtful[0])
    for candidate, its_share in zip(clamped(masks).split(1), doubtful, strict=True):
        seen = sam.enlarge(candidate, shown)[0]
        iou = _iou(seen > MASK_THRESHOLD, before)
        nearest, share = torch.where(iou > most, seen, nearest), torch.where(iou > most, its_share, share)
        most = torch.maximum(iou, most)
    logits[window] = (logits[window] + nearest) / 2
    return logits > MASK_THRESHOLD, predicted_iou.isfinite().all(), share


def _iou(a: Bool[Tensor, "h w"], b: Bool[Tensor, "h w"]) -> Float[Tensor, ""]:
    return (a & b).sum() / (a | b).sum().clamp(min=1)

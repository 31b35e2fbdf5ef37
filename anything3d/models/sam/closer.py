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

from anything3d.models.sam.prompting import MASK_THRESHOLD, Features, Predicted, Sam, quiet
from anything3d.photo import mask
from anything3d.photo.mask import Box

MOST_ENLARGED = 4  # pixels of the encoder for one of the photo along each side: a closer look has nothing new to see

Part = tuple[slice, slice]  # rows and columns of the photo


@torch.inference_mode()
def look_closer(
    sam: Sam,
    image: UInt8[Tensor, "H W 3"],
    looks: Sequence[tuple[Predicted, Box]],
    zoom: float,
    images_per_batch: int,
) -> list[Predicted]:
    """Each mask once more, after the same prompt in the part of the photo around `Box`, which is the mask's own.

    The part is a square whose side is `zoom` times the box's longer side. It lies in the photo and holds the prompt.
    The mean of both looks' logits is the new mask. Of the three masks of a point, the one nearest to the first look's
    is taken: close by, the surest one may be a part of the object. Predicted IoU and stability stay those of the first
    look. A mask whose part is the whole photo stays as it is. `images_per_batch` parts are encoded at once.
    """
    parts = [_part(box, first.prompt, zoom, image.shape[:2], sam.side_px) for first, box in looks]
    whole = (slice(0, image.shape[0]), slice(0, image.shape[1]))
    smaller = [place for place, part in enumerate(parts) if part != whole]
    closer = [first for first, _ in looks]
    for start in range(0, len(smaller), images_per_batch):
        places = smaller[start : start + images_per_batch]
        encoded = sam.encode([sam.read(image[parts[place]].contiguous()) for place in places])
        for place, features in zip(places, encoded, strict=True):
            solid, is_finite = blend(sam, features, closer[place], parts[place], image.shape[:2])
            changed = {"lengths": mask.runs_of(solid)} if bool(is_finite) else {"predicted_iou": math.nan}
            closer[place] = replace(closer[place], **changed)
    return closer


def _part(box: Box, prompt: Float[Tensor, "K 2"], zoom: float, size: Sequence[int], encoder_px: int) -> Part:
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
    sam: Sam, features: Features, first: Predicted, part: Part, size: Sequence[int]
) -> tuple[Bool[Tensor, "H W"], Bool[Tensor, ""]]:
    """The mask of both looks, and whether what SAM says of the part is finite. Nothing here waits for the device."""
    rows, columns = part
    shown, offset = (rows.stop - rows.start, columns.stop - columns.start), torch.tensor([columns.start, rows.start])
    masks, predicted_iou = sam.decode(features, (first.prompt - offset).flatten()[None], shown)
    seen = sam.enlarge(quiet(masks[0]), shown)
    logits = sam.enlarge(first.logits.to(seen.device).float()[None], (size[0], size[1]))[0]
    nearest = _iou(seen > MASK_THRESHOLD, logits[part] > MASK_THRESHOLD).argmax(0, keepdim=True)
    logits[part] = (logits[part] + seen[nearest][0]) / 2
    return logits > MASK_THRESHOLD, predicted_iou.isfinite().all()


def _iou(masks: Bool[Tensor, "M h w"], one: Bool[Tensor, "h w"]) -> Float[Tensor, "M"]:
    return (masks & one).sum((1, 2)) / (masks | one).sum((1, 2)).clamp(min=1)

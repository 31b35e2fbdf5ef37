"""A photo with the outlines of masks, for people to look at."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from anything3d.photo import mask
from anything3d.photo.select import ObjectMask
from anything3d.photo.sheet import OUTLINE, edge

BEYOND = (255, 255, 255)  # sRGB, beyond the edges of the photo
LEFT_OUT = (0, 150, 255)  # sRGB, of masks that become no object; those that do have OUTLINE


def marked(
    image: UInt8[Tensor, "H W 3"], kept: Iterable[ObjectMask], left_out: Iterable[ObjectMask], longest_px: int
) -> Image.Image:
    """The photo, shrunk so that its longer side has at most `longest_px`, with the edges of the masks drawn.

    Those that are kept are drawn over the others. Raises: InputError as `mask.runs`.
    """
    height, width = image.shape[:2]
    scale = min(1.0, longest_px / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.array(Image.fromarray(image.cpu().numpy()).resize(size, Image.Resampling.BILINEAR))
    for masks, color in ((left_out, LEFT_OUT), (kept, OUTLINE)):
        for one in masks:
            picture[edge(_shrunk(one, height, width, picture.shape[0], picture.shape[1]))] = color
    return Image.fromarray(picture)


def square(image: UInt8[Tensor, "H W 3"], one: ObjectMask, side: int) -> Image.Image:
    """The square of `side` pixels that `photo/crop.py` makes a crop of, as it is in the photo: RGBA, alpha is the mask.

    Raises: InputError as `mask.runs`.
    """
    height, width = image.shape[:2]
    box_x, box_y, box_width, box_height = one.box
    x, y = box_x + (box_width - side) // 2, box_y + (box_height - side) // 2
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    cut = np.full((side, side, 4), (*BEYOND, 0), np.uint8)
    inside = cut[top - y : bottom - y, left - x : right - x]
    inside[..., :3] = image[top:bottom, left:right].cpu().numpy()
    inside[..., 3] = mask.decode_box(one.counts, height, width, (left, top, right - left, bottom - top)).numpy() * 255
    return Image.fromarray(cut)


def _shrunk(one: ObjectMask, height: int, width: int, rows: int, columns: int) -> Bool[np.ndarray, "R C"]:
    """The mask at the middle of every pixel of the smaller picture; only its box is decoded."""
    x, y, box_width, box_height = one.box
    part = mask.decode_box(one.counts, height, width, one.box).numpy()
    at_y = ((np.arange(rows) + 0.5) * height / rows).astype(np.int64) - y
    at_x = ((np.arange(columns) + 0.5) * width / columns).astype(np.int64) - x
    in_y, in_x = (at_y >= 0) & (at_y < box_height), (at_x >= 0) & (at_x < box_width)
    inside = np.zeros((rows, columns), bool)
    inside[np.ix_(in_y, in_x)] = part[np.ix_(at_y[in_y], at_x[in_x])]
    return inside

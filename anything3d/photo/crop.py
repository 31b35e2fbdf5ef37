"""Crops: the square of a photo around an object, with its mask as alpha.

Source: Anything-3D, Shen et al. 2023, I' = Affine(M * I; b). Its code makes a square of side 1.8 sqrt(w h). This cuts
objects that are longer than 3.24 times their width. A square that is measured by the longer side cuts nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor

from anything3d.photo import mask
from anything3d.photo.color import WHITE_LEVEL
from anything3d.photo.mask import Box
from anything3d.settings.segment import Framing

GAP = 0.01  # of the crop's side; a gap between two masks that is no wider belongs to what is covered
STRIP_PX = 2**22  # of a square, that are resampled at once: with much context it is far larger than the photo


@dataclass(frozen=True, slots=True)
class Crop:
    """Pixel (i, j) of S rows and columns begins at (x + j side / S, y + i side / S) of the photo."""

    rgba: UInt8[Tensor, "S S 4"]  # alpha is the mask, antialiased; RGB is the photo, white beyond its edges
    x: float  # pixels of the photo; may lie outside
    y: float  # pixels of the photo; may lie outside
    side: float  # pixels of the photo
    unseen: UInt8[Tensor, "S S"] | None = None  # of 255: share of a pixel in which the object may go on; None: nowhere


def square_of(box: Box, side: int) -> Box:
    """The square of `side` pixels around a box's centre, which may leave the photo."""
    x, y, width, height = box
    return x + (width - side) // 2, y + (height - side) // 2, side, side


def side_px(box: Box, context: float, framing: Framing) -> int:
    """Side of the square around a box: `context` times what `framing` says, whole pixels."""
    _, _, width, height = box
    match framing:
        case "longest":
            return math.ceil(context * max(width, height))
        case "area":
            return math.ceil(context * math.sqrt(width * height))
        case _:
            assert_never(framing)


def cut(
    image: UInt8[Tensor, "H W 3"],
    counts: str,
    box: Box,
    side: int,
    size: int,
    occluders: Sequence[str] | None = None,
) -> Crop:
    """The square of `side` pixels around the box's centre, resampled to `size` pixels.

    `counts` is the mask as compressed RLE, `box` lies around it. The square may leave the photo;
    there it is transparent and white. Colour and alpha are resampled alike: bilinear, over the whole footprint when
    shrinking. Nothing outside the square is touched.

    `occluders` are masks of what may stand before the object. `unseen` is what they cover beside its own mask, and what
    lies beyond the photo. Without them (None) nothing is unseen, also not beyond the photo.

    Raises: InputError as `mask.runs`.
    """
    height, width = image.shape[:2]
    x, y, _, _ = square_of(box, side)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    inner = (left, top, right - left, bottom - top)
    alpha = mask.decode_box(counts, height, width, inner)
    covered = _covered([mask.decode_box(other, height, width, inner) for other in occluders or ()], alpha, side)
    # R, G, B, photo or beyond, mask, occluders; 0 beyond the photo
    narrow = torch.zeros(6, side, size, dtype=torch.uint8)
    rows = max(1, STRIP_PX // side)
    for first in range(top, bottom, rows):
        end = min(first + rows, bottom)
        planes = torch.zeros(6, end - first, side, dtype=torch.uint8)
        inside = planes[..., left - x : right - x]
        inside[:3] = image[first:end, left:right].permute(2, 0, 1)
        inside[3] = 255
        inside[4] = alpha[first - top : end - top].to(torch.uint8) * 255
        inside[5] = covered[first - top : end - top].to(torch.uint8) * 255
        narrow[:, first - y : end - y] = _resized(planes, end - first, size)
    planes = _resized(narrow, size, size)
    share = planes[3].float() / 255  # of a pixel's footprint that lies in the photo
    color = (planes[:3] / share.clamp(min=1 / 255)).round().clamp(max=255).to(torch.uint8)
    rgb = torch.where(share > 0, color, WHITE_LEVEL)
    rgba = torch.cat([rgb, planes[4:5]]).permute(1, 2, 0).contiguous()
    unseen = 255 - planes[3] + torch.minimum(planes[5], planes[3])
    told = occluders is not None and bool(unseen.any())
    return Crop(rgba, float(x), float(y), float(side), unseen if told else None)


def _covered(others: Sequence[Bool[Tensor, "h w"]], own: Bool[Tensor, "h w"], side: int) -> Bool[Tensor, "h w"]:
    """What the other masks cover beside the own one, and narrow gaps (GAP): masks of neighbours seldom touch."""
    covered = torch.zeros_like(own)
    for other in others:
        covered |= other
    if not covered.any():
        return covered
    reach = math.ceil(GAP * side)
    return (covered | _within(covered, reach) & _within(own, reach)) & ~own


def _within(pixels: Bool[Tensor, "h w"], reach: int) -> Bool[Tensor, "h w"]:
    """What lies `reach` pixels or less from them, along rows and columns."""
    from scipy.ndimage import maximum_filter1d

    near = pixels.numpy().view(np.uint8)
    for axis in (0, 1):
        near = maximum_filter1d(near, 2 * reach + 1, axis=axis, mode="constant")
    return torch.from_numpy(near.view(np.bool_))


def _resized(planes: UInt8[Tensor, "C H W"], height: int, width: int) -> UInt8[Tensor, "C h w"]:
    """Bilinear, over the whole footprint when shrinking; columns first, as PyTorch does it when both sides change."""
    return F.interpolate(planes[None], (height, width), mode="bilinear", antialias=True)[0]

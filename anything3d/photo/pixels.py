"""Pixels as tensors: crops over a background, and pictures for people to look at."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

WHITE = 1.0  # grey level of what networks see behind a crop
WHITE_LEVEL = 255  # the same in 8 bits
SPOTLIGHT_PALE = 0.6  # share of white in what a spotlight leaves out


def over(
    rgba: Float[Tensor, "B 4 H W"], background: float | Sequence[float] | Float[Tensor, "..."]
) -> Float[Tensor, "B 3 H W"]:
    """Crops laid over a colour: grey level, (r, g, b), or a tensor that broadcasts to B 3 H W; all in [0, 1]."""
    color = torch.as_tensor(background, dtype=rgba.dtype, device=rgba.device)
    if color.ndim == 1:
        color = color[:, None, None]
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    return rgb * alpha + color * (1 - alpha)


def spotlight(image: UInt8[Tensor, "H W 3"], shown: Bool[Tensor, "H W"]) -> UInt8[Tensor, "H W 3"]:
    """The photo with all but what is `shown` grey and pale."""
    grey = image.float().mean(2, keepdim=True)
    pale = SPOTLIGHT_PALE * WHITE_LEVEL + (1 - SPOTLIGHT_PALE) * grey
    return torch.where(shown[..., None], image, pale.to(torch.uint8))


def thumbnail(pixels: UInt8[Tensor, "H W C"], longest_px: int) -> UInt8[Tensor, "h w C"]:
    """Shrunk so that the longer side has `longest_px`; a smaller picture is returned as it is.

    The colour of a transparent pixel bleeds into its neighbours, as crops hold the photo there.
    """
    height, width = pixels.shape[:2]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return pixels
    return resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))


def resize(pixels: UInt8[Tensor, "H W C"], height: int, width: int) -> UInt8[Tensor, "h w C"]:
    """Bilinear, over the whole footprint of a pixel when shrinking."""
    planes = pixels.permute(2, 0, 1)[None]
    planes = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).contiguous()

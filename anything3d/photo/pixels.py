"""Pixels as tensors: crops over a background, and pictures for people to look at."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from anything3d.photo.color import WHITE_LEVEL

WHITE = 1.0  # grey level of what networks see behind a crop
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

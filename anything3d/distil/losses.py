"""The losses of a reconstruction. Each is a mean for each object, so that the objects of a batch do not interact."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.settings.reconstruct import LossConfig
from anything3d.space.field import Field
from anything3d.space.render import Rendering, composite


class LossTerms(NamedTuple):
    """Unweighted losses of B objects."""

    sds: Float[Tensor, "B"]  # half the mean square of the score-distillation gradient: its size, not its quality
    reference_rgb: Float[Tensor, "B"]  # mean square difference to the crop over a random colour, where that is known
    reference_mask: Float[Tensor, "B"]  # mean square difference of opacity and the crop's alpha, where that is known
    silhouette: Float[Tensor, "B"]  # mean square difference of opacity and the cloud's discs in random views
    tv: Float[Tensor, "B"]  # mean absolute difference of neighbouring raw values, density and colour
    emptiness: Float[Tensor, "B"]  # mean log(1 + 10 weight) over the samples of random views; 3DFuse; 0 in `sds`

    def weigh(self, config: LossConfig, progress: float) -> Float[Tensor, "B"]:
        """The sum of each object's terms, weighted as in `sds`; `progress` runs from 0 to 1."""
        weights = (
            config.sds,
            config.reference_rgb,
            config.reference_mask,
            config.silhouette * (1 - progress),
            config.tv,
        )
        terms = (self.sds, self.reference_rgb, self.reference_mask, self.silhouette, self.tv)
        return torch.stack([weight * term for weight, term in zip(weights, terms, strict=True)]).sum(0)


def reference_rgb(
    rendering: Rendering,
    target: Float[Tensor, "B 4 H W"],
    known: Float[Tensor, "B H W"],
    background: Float[Tensor, "B 3"],
) -> Float[Tensor, "B"]:
    """Against the premultiplied RGBA `target` where it is `known` (0..1), both over `background`.

    A random background exposes leaks of the mask. Source: stable-dreamfusion's known-view loss.
    """
    expected = target[:, :3] + (1 - target[:, 3:]) * background[:, :, None, None]
    return ((composite(rendering, background) - expected).square() * known[:, None]).flatten(1).mean(1)


def reference_mask(
    rendering: Rendering, target: Float[Tensor, "B 4 H W"], known: Float[Tensor, "B H W"]
) -> Float[Tensor, "B"]:
    """Of opacity and the target's alpha, where it is `known` (0..1)."""
    return ((rendering.alpha - target[:, 3]).square() * known).flatten(1).mean(1)


def opacity(rendering: Rendering, target: Float[Tensor, "BV H W"], n_objects: int) -> Float[Tensor, "B"]:
    """Mean square difference of opacities, over all views of an object."""
    return (rendering.alpha - target).square().reshape(n_objects, -1).mean(1)


def total_variation(field: Field) -> Float[Tensor, "B"]:
    """Mean absolute difference of neighbours along the three axes, of raw density plus raw colour."""
    terms = [
        grid.diff(dim=axis).abs().flatten(1).mean(1)
        for grid in (field.density_grid, field.color_grid)
        for axis in (2, 3, 4)
    ]
    return torch.stack(terms).sum(0) / 3


def emptiness(weights: Float[Tensor, "BV H W S"], n_objects: int) -> Float[Tensor, "B"]:
    """Low where the light of a ray is stopped in few samples. Source: 3DFuse run_3DFuse.py, its emptiness loss."""
    return (1 + 10 * weights).log().reshape(n_objects, -1).mean(1)

"""Random views of an object for distillation, and the words that describe them in a prompt.

Source: DreamFusion, Poole et al. 2022, view-dependent prompts. The ranges are those of 3DFuse's pose sampling unless a
line says otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.settings.reconstruct import ViewConfig
from anything3d.space.camera import Camera, orbit

FRONT, SIDE, BACK, OVERHEAD = range(4)
Spread = Literal["area", "angle"]  # how elevations are drawn


@dataclass(frozen=True, slots=True)
class NamedViews:
    """Cameras, object by object, and which of the four prefixes names each."""

    camera: Camera
    prefix: Int[Tensor, "BV"]


def sample_views(
    config: ViewConfig, spread: Spread, generators: Sequence[torch.Generator], device: torch.device | str
) -> NamedViews:
    """`config.count` random views of each object; object b's come from `generators[b]`.

    Elevations are uniform on the sphere ("area") or uniform in degrees ("angle").
    """
    azimuth, height, distance, fov = seed.rand((config.count, 4), generators, device).flatten(0, 1).unbind(-1)
    azimuth, elevation = 360 * azimuth, _elevation_deg(height, config.elevation_deg, spread)
    camera = orbit(azimuth, elevation, _between(distance, config.distance), _between(fov, config.fov_deg))
    return NamedViews(camera, name_views(azimuth, elevation, config.overhead_deg))


def name_views(
    azimuth_deg: Float[Tensor, "N"], elevation_deg: Float[Tensor, "N"], overhead_deg: float
) -> Int[Tensor, "N"]:
    """FRONT, SIDE, BACK or OVERHEAD; quarters of the circle are centred on the canonical axes."""
    quarter = ((azimuth_deg + 45) % 360 // 90).long()
    around = torch.where(quarter == 0, FRONT, torch.where(quarter == 2, BACK, SIDE))
    return torch.where(elevation_deg > overhead_deg, OVERHEAD, around)


def _elevation_deg(share: Float[Tensor, "N"], limits: tuple[float, float], spread: Spread) -> Float[Tensor, "N"]:
    low, high = limits
    match spread:
        case "angle":
            return _between(share, (low, high))
        case "area":  # the area of a sphere between two heights grows with the sine of the elevation
            sines = math.sin(math.radians(low)), math.sin(math.radians(high))
            return torch.rad2deg(torch.asin(_between(share, sines)))
        case _:
            assert_never(spread)


def _between(share: Float[Tensor, "N"], limits: tuple[float, float]) -> Float[Tensor, "N"]:
    return limits[0] + share * (limits[1] - limits[0])

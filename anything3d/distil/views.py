"""Random views of an object for distillation, and what a prompt calls them.

Source: DreamFusion, Poole et al. 2022, view-dependent prompts; ranges as in 3DFuse's pose sampling unless a line says
otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.errors import ConfigError
from anything3d.space.camera import POINT_E_DISTANCE, POINT_E_FOV_DEG, Camera, orbit

FRONT, SIDE, BACK, OVERHEAD = range(4)


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """Where random cameras stand, and the words for it."""

    count: int = 1  # random views per object and step
    elevation_deg: tuple[float, float] = (-10.0, 60.0)  # -6.4 to 83.5 in 3DFuse
    elevation_spread: Literal["area", "angle"] = "angle"  # uniform on the sphere (3DFuse) or in degrees
    distance: tuple[float, float] = (POINT_E_DISTANCE, POINT_E_DISTANCE)  # canonical lengths; 2.3 in 3DFuse
    fov_deg: tuple[float, float] = (POINT_E_FOV_DEG, POINT_E_FOV_DEG)  # 40 to 70 in 3DFuse
    overhead_deg: float = 60.0  # elevation from which a view is called overhead; 41.8 in 3DFuse
    front: str = "front view of"  # azimuth within 45 degrees of the canonical front
    side: str = "side view of"
    back: str = "back view of"  # "backside view of" in 3DFuse
    overhead: str = "overhead view of"

    def __post_init__(self) -> None:
        ranges = (self.elevation_deg, self.distance, self.fov_deg)
        if self.count < 1 or any(low > high for low, high in ranges) or max(map(abs, self.elevation_deg)) >= 90:
            raise ConfigError(
                "config_value",
                f"{self}: count must be >= 1, ranges (low, high), elevations within 90 (reconstruct.views)",
            )

    @property
    def prefixes(self) -> tuple[str, str, str, str]:
        """In the order of the numbers that `sample_views` gives."""
        return self.front, self.side, self.back, self.overhead


@dataclass(frozen=True, slots=True)
class NamedViews:
    """Cameras, object by object, and which of the four prefixes names each."""

    camera: Camera
    prefix: Int[Tensor, "BV"]


def sample_views(config: ViewConfig, generators: Sequence[torch.Generator], device: torch.device | str) -> NamedViews:
    """`config.count` random views of each object; object b's come from `generators[b]`."""
    azimuth, height, distance, fov = seed.rand((config.count, 4), generators, device).flatten(0, 1).unbind(-1)
    azimuth, elevation = 360 * azimuth, _elevation_deg(height, config)
    camera = orbit(azimuth, elevation, _between(distance, config.distance), _between(fov, config.fov_deg))
    return NamedViews(camera, name_views(azimuth, elevation, config.overhead_deg))


def name_views(
    azimuth_deg: Float[Tensor, "N"], elevation_deg: Float[Tensor, "N"], overhead_deg: float
) -> Int[Tensor, "N"]:
    """FRONT, SIDE, BACK or OVERHEAD; quarters of the circle are centred on the canonical axes."""
    quarter = ((azimuth_deg + 45) % 360 // 90).long()
    around = torch.where(quarter == 0, FRONT, torch.where(quarter == 2, BACK, SIDE))
    return torch.where(elevation_deg > overhead_deg, OVERHEAD, around)


def _elevation_deg(share: Float[Tensor, "N"], config: ViewConfig) -> Float[Tensor, "N"]:
    low, high = config.elevation_deg
    match config.elevation_spread:
        case "angle":
            return _between(share, (low, high))
        case "area":  # the area of a sphere between two heights grows with the sine of the elevation
            sines = math.sin(math.radians(low)), math.sin(math.radians(high))
            return torch.rad2deg(torch.asin(_between(share, sines)))
        case _:
            assert_never(config.elevation_spread)


def _between(share: Float[Tensor, "N"], limits: tuple[float, float]) -> Float[Tensor, "N"]:
    return limits[0] + share * (limits[1] - limits[0])

"""Random views of an object for distillation, and the words that describe them in a prompt.

Source: DreamFusion, Poole et al. 2022, view-dependent prompts. The ranges are those of 3DFuse's pose sampling unless a
line says otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Interval
from jaxtyping import Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.errors import ConfigError
from anything3d.settings import check_ranges
from anything3d.space.camera import POINT_E_DISTANCE, POINT_E_FOV_DEG, Camera, orbit

FRONT, SIDE, BACK, OVERHEAD = range(4)
Spread = Literal["area", "angle"]  # how elevations are drawn
Elevation = Annotated[float, Interval(gt=-90, lt=90)]
Distance = Annotated[float, Interval(gt=0, le=1000)]
Fov = Annotated[float, Interval(gt=0, lt=180)]


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """Where random cameras stand, and the words for it."""

    count: Annotated[int, Interval(ge=1, le=10**4)] = 1  # Random views of each object in each step.
    elevation_deg: tuple[Elevation, Elevation] = (-10.0, 60.0)  # Lowest and highest view. 3DFuse takes -6.4 and 83.5.
    # Nearest and farthest view, in canonical lengths. 3DFuse takes 2.3 for both.
    distance: tuple[Distance, Distance] = (POINT_E_DISTANCE, POINT_E_DISTANCE)
    # Narrowest and widest field of view, in degrees. 3DFuse takes 40 and 70.
    fov_deg: tuple[Fov, Fov] = (POINT_E_FOV_DEG, POINT_E_FOV_DEG)
    # Views from above this elevation are called overhead. 3DFuse takes 41.8.
    overhead_deg: Annotated[float, Interval(ge=-90, le=90)] = 60.0
    front: str = "front view of"  # Words for views whose azimuth is within 45 degrees of the canonical front.
    side: str = "side view of"  # Words for views from the left and from the right.
    back: str = "back view of"  # Words for views from behind. 3DFuse takes "backside view of".
    overhead: str = "overhead view of"  # Words for views from above.

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in ("elevation_deg", "distance", "fov_deg"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(
                    "setting", f"reconstruct.views.{name} is {low} to {high}; the lower number comes first"
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

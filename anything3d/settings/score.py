"""The settings of `score`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from anything3d.settings import check_ranges


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """From where an object is looked at, and how closely."""

    # The weights of CLIP: a packaged name or a folder. Numbers of different CLIPs do not compare.
    clip_weights: str = "clip"
    # The weights of DINOv2: a packaged name or a folder. Numbers of different DINOv2s do not compare.
    dino_weights: str = "dino"
    size_px: Annotated[int, Interval(ge=8, le=4096)] = 128  # Side of the reference render and the turntable, in pixels.
    views: Annotated[int, Interval(ge=1, le=360)] = 8  # Views of the turntable. Magic123 takes 100.
    # Elevation of the turntable, in degrees: seen slightly from above, so that tops count.
    turntable_elevation_deg: Annotated[float, Interval(ge=-89, le=89)] = 15.0
    # Samples of each surface. With 4096, two samples of a unit cube's surface differ by a Chamfer of 0.019, with an
    # F-score of 0.996.
    points: Annotated[int, Interval(ge=2, le=2**17)] = 4096
    # Samples of each surface for the numbers of SA-3DAO, of which 16,384 are measured. Its protocol takes a million.
    # Two samples of a cube then have an F-score of 1.00, and of 0.967 with 262,144.
    sa3dao_points: Annotated[int, Interval(ge=2, le=2**22)] = 2**18
    samples: Annotated[int, Interval(ge=1, le=4096)] = 64  # Samples along each ray.

    def __post_init__(self) -> None:
        check_ranges(self)

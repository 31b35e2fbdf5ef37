"""The settings of `mesh`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from anything3d.settings import Share, check_ranges


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """Where the surface lies and what is left out."""

    resolution: Annotated[int, Interval(ge=2, le=1024)] = 64  # Nodes along each axis at which the field is sampled.
    # Density of the surface, in 1 / canonical length. A field that stays below it is treated as `extract` says.
    threshold: Annotated[float, Interval(gt=0, le=10**6)] = 10.0
    # A field is empty if it nowhere reaches twice this density, in 1 / canonical length.
    min_density: Annotated[float, Interval(gt=0, le=10**6)] = 1.0
    # A component with a smaller share of all faces is left out. threestudio takes 1 %.
    min_component_share: Share = 0.01

    def __post_init__(self) -> None:
        check_ranges(self)

"""The settings of `mesh`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from anything3d.errors import ConfigError
from anything3d.settings import Share, check_ranges

LEAST = {"max_faces": 100, "texture_px": 64}  # of the settings that 0 switches off


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """Where the surface lies, what is left out, and what colours it.

    A mesh that a backend has made has a surface already: only `max_faces` and `texture_px` are for it.
    """

    resolution: Annotated[int, Interval(ge=2, le=1024)] = 64  # Nodes along each axis at which the field is sampled.
    # Opacity that a ray has met where it meets the surface.
    surface: Annotated[float, Interval(gt=0, lt=1)] = 0.15
    # A line through the field that meets less opacity sees no object.
    silhouette: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    # A component with a smaller share of all faces is left out. threestudio takes 1 %.
    min_component_share: Share = 0.01
    # A surface of more triangles is simplified to this number, also that of a backend; 0: it is not. At least 100.
    max_faces: Annotated[int, Interval(ge=0, le=10_000_000)] = 5000
    # Side of the texture; 0: the vertices have the colours. At least 64. A mesh of a backend that has a texture of its
    # own keeps it, unless it is simplified.
    texture_px: Annotated[int, Interval(ge=0, le=8192)] = 512
    # How far the surface moves towards the outline of the photo's mask, after it has been scaled to the mask: 1 is all
    # the way, 0 switches both off.
    fit: Share = 0.5
    # The photo moves and colours the surface if the surface covers this share of the mask, seen from the reference
    # camera.
    min_cover: Share = 0.9
    # A colour moves to the colours that the photo shows of the object, if their rg chromaticity differs by about so
    # much; its brightness stays. 0: it stays as the field has it.
    palette: Share = 0.06

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, least in LEAST.items():
            if 0 < (value := getattr(self, name)) < least:
                raise ConfigError("setting", f"mesh.{name} is {value}; must be 0 or at least {least}")

"""The settings of `reconstruct.backend = "shap-e"`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from anything3d.settings import check_ranges


@dataclass(frozen=True, slots=True)
class ShapEConfig:
    """`reconstruct.backend = "shap-e"`: Shap-E makes a mesh of the crop alone. `docs/backends.md` says how."""

    weights: str = "shap-e-img2img"  # The weights: a folder of diffusers' ShapEImg2ImgPipeline.
    # Steps of the sampler. Each one calls the network twice. The authors take 64.
    steps: Annotated[int, Interval(ge=1, le=1000)] = 64
    # Classifier-free guidance. The authors take 3. Up to 1 there is none, which halves the work.
    guidance: Annotated[float, Interval(ge=0, le=100)] = 3.0
    # Nodes along each axis of the grid on which the surface is searched for. Shap-E was trained with 128.
    resolution: Annotated[int, Interval(ge=8, le=256)] = 128

    def __post_init__(self) -> None:
        check_ranges(self)

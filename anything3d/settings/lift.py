"""The settings of `lift`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from anything3d.errors import ConfigError
from anything3d.settings import check_ranges


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """How clouds are drawn. Noise levels are in model units.

    Official: 64 steps, sigma_min 0.001, rho 7, guidance 3; base: sigma_max 120, s_churn 3; upsampler: sigma_max 160,
    no churn.
    """

    steps: int = 64
    sigma_min: float = 1e-3
    sigma_max: float = 120.0
    rho: float = 7.0
    s_churn: float = 0.0  # fresh noise that is added at every step; it needs generators
    guidance: float = 3.0  # 0 and 1: none; any other value runs twice the batch, half of it on zeroed conditions
    around_low_res: bool = False  # whether the noise is laid around the coarse points, over and over, or around 0


@dataclass(frozen=True, slots=True)
class LiftConfig:
    """How Point-E makes a cloud of a crop, and how the camera that sees it as the photo does is searched for."""

    # Which model makes the cloud. "point-e" is Point-E by our code, which loads the official networks.
    backend: Literal["point-e"] = "point-e"
    weights: str = "pointe"  # The weights of the base network, which makes coarse clouds.
    upsampler_weights: str = "pointe-upsampler"  # The weights of the network that adds points to a coarse cloud.
    clip_weights: str = "clip"  # The weights of the CLIP that shows the crop to both networks.
    candidates: Annotated[int, Interval(ge=1, le=256)] = 4  # Drafts of each object. The authors take 1.
    steps: Annotated[int, Interval(ge=1, le=1024)] = 16  # Steps of the base network. Point-E takes 64.
    upsampler_steps: Annotated[int, Interval(ge=1, le=1024)] = 6  # Steps of the upsampler. Point-E takes 64.
    sigma_min: Annotated[float, Interval(gt=0, le=1)] = 1e-3  # Noise level at the end. Point-E takes 0.001.
    # Noise level at which the base network begins. Point-E takes 120. At toy size 12 steps from 20 come near 24 from
    # 120 (Chamfer 0.114 and 0.110).
    sigma_max: Annotated[float, Interval(gt=0, le=1000)] = 20.0
    upsampler_sigma_max: Annotated[float, Interval(gt=0, le=1000)] = (
        0.1  # Noise level at which the upsampler begins. Point-E: 160.
    )
    # Whether the upsampler's noise begins around the coarse points. Point-E's does not. At toy size, points that begin
    # evenly spread stay spread.
    upsampler_around_coarse: bool = True
    rho: Annotated[float, Interval(gt=0, le=100)] = 7.0  # The higher, the more steps lie near sigma_min.
    # Noise that is added at each step of the base network. Point-E takes 3, made for 64 steps.
    s_churn: Annotated[float, Interval(ge=0, le=100)] = 0.0
    # Classifier-free guidance of the base network. 1 means none and needs half the calls. Point-E's 3 overshoots at toy
    # size (Chamfer 0.13 to 0.28).
    guidance: Annotated[float, Interval(ge=0, le=100)] = 1.0
    # Classifier-free guidance of the upsampler. The authors take 3.
    upsampler_guidance: Annotated[float, Interval(ge=0, le=100)] = 1.0
    # Distance of the reference camera from the object's centre, in canonical units. An object has longest side 1. The
    # photos of the mini world have 1.4 to 10, with median 5.
    distance: Annotated[float, Interval(gt=1, le=1000)] = 3.5
    # Directions all around from which the cloud is compared with the crop. 1 is the front only, as the authors assume.
    azimuths: Annotated[int, Interval(ge=1, le=360)] = 24
    elevations: Annotated[int, Interval(ge=1, le=180)] = 7  # Heights from which the cloud is compared with the crop.
    lowest_deg: Annotated[float, Interval(gt=-90, lt=90)] = -15.0  # The lowest of these heights, in degrees.
    highest_deg: Annotated[float, Interval(gt=-90, lt=90)] = 75.0  # The highest of these heights, in degrees.
    # Side in pixels of the images in which a draft is compared with the crop.
    draft_match_px: Annotated[int, Interval(ge=1, le=1024)] = 32
    # Side in pixels of the images in which the final cloud is compared with the crop.
    match_px: Annotated[int, Interval(ge=1, le=1024)] = 64

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.sigma_min >= min(self.sigma_max, self.upsampler_sigma_max):
            raise ConfigError("setting", f"lift.sigma_min is {self.sigma_min}; must be below both sigma_max")
        if self.lowest_deg > self.highest_deg:
            raise ConfigError("setting", f"lift.lowest_deg is {self.lowest_deg}, above highest_deg {self.highest_deg}")

    @property
    def base_sampler(self) -> SamplerConfig:
        """How the base network draws drafts."""
        return SamplerConfig(self.steps, self.sigma_min, self.sigma_max, self.rho, self.s_churn, self.guidance)

    @property
    def upsampler_sampler(self) -> SamplerConfig:
        """How the upsampler draws the further points."""
        return SamplerConfig(
            steps=self.upsampler_steps,
            sigma_min=self.sigma_min,
            sigma_max=self.upsampler_sigma_max,
            rho=self.rho,
            guidance=self.upsampler_guidance,
            around_low_res=self.upsampler_around_coarse,
        )

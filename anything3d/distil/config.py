"""The settings of `reconstruct`: effort, rates and limits. The parts of a distillation declare their own."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from anything3d.distil.losses import LossConfig
from anything3d.distil.sds import SdsConfig
from anything3d.distil.views import ViewConfig
from anything3d.errors import ConfigError
from anything3d.settings import Share, check_ranges
from anything3d.space.field import FieldConfig
from anything3d.space.render import RenderConfig


@dataclass(frozen=True, slots=True)
class ReconstructConfig:
    """Effort, rates and limits; the parts have their own."""

    weights: str = "diffusion"  # The weights of the denoiser.
    steps: Annotated[int, Interval(ge=1, le=10**6)] = 160  # Steps of the optimiser.
    # Side in pixels of the views, which are resized to the denoiser's image size where that differs.
    render_size: Annotated[int, Interval(ge=1, le=1024)] = 64
    # Share of the steps in which views are half as large. threestudio's zero123 has three sizes.
    coarse_until: Share = 0.5
    start: Literal["cloud", "fog"] = "cloud"  # The first field: the cloud's surface, or a fog as in 3DFuse.
    optimizer: Literal["adam", "adamax"] = "adam"  # The optimiser. 3DFuse takes "adamax".
    # Learning rate of raw density at the start. 3DFuse takes 0.05 all along.
    lr_density: Annotated[float, Interval(gt=0, le=100)] = 0.2
    lr_color: Annotated[float, Interval(gt=0, le=100)] = 0.1  # Learning rate of raw colour at the start.
    # Learning rates at the end / at the start, exponential between.
    lr_decay: Annotated[float, Interval(gt=0, le=10)] = 0.1
    jitter: bool = True  # Whether the samples of each ray are shifted at random, against banding.
    # Size of the discs that a cloud's points are drawn as: their radius is this / sqrt(number of points), as a share of
    # the image side.
    disc: Annotated[float, Interval(gt=0, le=64)] = 0.9
    # Lowest and highest grey (or latent) behind the denoiser's views. Each view draws its own.
    background: tuple[Share, Share] = (1.0, 1.0)
    # A field is rejected as empty if its mean opacity inside the photo's mask, seen from the reference camera, is less.
    min_opacity: Share = 0.3
    # A field is rejected as fog if its mean opacity outside that mask, but for what may be hidden, is more.
    max_fog: Share = 0.3
    clip_weights: str = "clip"  # The weights of the CLIP that compares a field with the surface of its cloud.
    # If the field's CLIP similarity to the photo is lower than that of the cloud's surface by more than this, the
    # surface is kept instead. 2 keeps all fields.
    max_fall: Annotated[float, Interval(ge=0, le=2)] = 0.08
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)  # The cube and its voxels.
    render: RenderConfig = dataclasses.field(default_factory=lambda: RenderConfig(samples=32))  # How it is rendered.
    views: ViewConfig = dataclasses.field(default_factory=ViewConfig)  # Where the random views stand.
    sds: SdsConfig = dataclasses.field(default_factory=SdsConfig)  # How the denoiser pulls.
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)  # Weights of the losses.

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.background[0] > self.background[1]:
            raise ConfigError("setting", f"reconstruct.background is {self.background}; the lower grey comes first")
        if self.coarse_until and self.render_size % 2:
            raise ConfigError(
                "setting",
                f"reconstruct.render_size is {self.render_size}; must be even unless reconstruct.coarse_until is 0",
            )
        if self.field.latent and self.coarse_until:
            raise ConfigError("setting", "latents have one size: reconstruct.field.latent needs coarse_until = 0")
        if self.field.latent and (self.start != "fog" or self.losses.reference_rgb):
            raise ConfigError(
                "setting",
                "latents compare neither with the cloud's colours nor with the photo's: reconstruct.field.latent needs "
                'reconstruct.start = "fog" and reconstruct.losses.reference_rgb = 0',
            )

    @property
    def judges(self) -> bool:
        """Whether fields are compared with the surfaces of their clouds at all."""
        return self.max_fall < 2

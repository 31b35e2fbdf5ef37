"""The settings of `reconstruct`: effort, rates and limits. The parts of a distillation declare their own."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from anything3d.distil.losses import LossConfig
from anything3d.distil.sds import SdsConfig
from anything3d.distil.views import ViewConfig
from anything3d.errors import ConfigError
from anything3d.space.field import FieldConfig
from anything3d.space.render import RenderConfig


@dataclass(frozen=True, slots=True)
class ReconstructConfig:
    """Effort, rates and limits; the parts have their own."""

    weights: str = "diffusion"  # the denoiser's
    steps: int = 160
    render_size: int = 64  # px; resized to the denoiser's image size where that differs
    coarse_until: float = 0.5  # share of the steps in which views are half as large; threestudio's zero123 in 3 sizes
    start: Literal["cloud", "fog"] = "cloud"  # the first field; 3DFuse begins in a fog
    optimizer: Literal["adam", "adamax"] = "adam"  # 3DFuse adamax
    lr_density: float = 0.2  # at the start; raw units per step; 3DFuse 0.05 all along
    lr_color: float = 0.1
    lr_decay: float = 0.1  # rates at the end / at the start, exponential between
    jitter: bool = True  # shift the samples of each ray at random, against banding
    disc: float = 0.9  # radius of a cloud's discs * sqrt(points), of the image side
    background: tuple[float, float] = (1.0, 1.0)  # greys (or latents) behind the denoiser's views, drawn for each
    min_opacity: float = 0.3  # mean inside the photo's mask, seen from the reference camera; less is an empty field
    max_fog: float = 0.3  # mean opacity outside that mask, but for what may be hidden; more is fog
    clip_weights: str = "clip"  # judges fields beside the surfaces of their clouds
    max_fall: float = 0.08  # of CLIP similarity from the cloud's surface to the field; 2: all are kept
    checkpoint_every: int = 40  # steps
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    render: RenderConfig = dataclasses.field(default_factory=lambda: RenderConfig(samples=32))
    views: ViewConfig = dataclasses.field(default_factory=ViewConfig)
    sds: SdsConfig = dataclasses.field(default_factory=SdsConfig)
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "render_size", "lr_density", "lr_color", "lr_decay", "disc", "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise ConfigError("config_value", f"reconstruct.{name} is {getattr(self, name)}; must be > 0")
        if not 0 <= self.background[0] <= self.background[1] <= 1:
            raise ConfigError(
                "config_value", f"reconstruct.background is {self.background}; need 0 <= low <= high <= 1"
            )
        if not 0 <= self.coarse_until <= 1 or (self.coarse_until and self.render_size % 2):
            raise ConfigError(
                "config_value",
                f"reconstruct.coarse_until is {self.coarse_until}; must be in 0..1, render_size even unless it is 0",
            )
        if self.field.latent and self.coarse_until:
            raise ConfigError("config_value", "latents have one size: reconstruct.field.latent needs coarse_until = 0")
        if self.field.latent and (self.start != "fog" or self.losses.reference_rgb):
            raise ConfigError(
                "config_value",
                "latents compare neither with the cloud's colours nor with the photo's: reconstruct.field.latent needs "
                'reconstruct.start = "fog" and reconstruct.losses.reference_rgb = 0',
            )

    @property
    def judges(self) -> bool:
        """Whether fields are compared with the surfaces of their clouds at all."""
        return self.max_fall < 2

"""The settings of `reconstruct`: what both backends share, and a section for each backend that only it reads.

`sds` is the backend of the presets `mini` and `default`, `sjc` is that of the authors' code, which `paper` reproduces.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from anything3d.distil.gradient import Weighting
from anything3d.distil.losses import LossConfig, Weight
from anything3d.distil.views import ViewConfig
from anything3d.errors import ConfigError
from anything3d.models.finite import MAX_DROPPED
from anything3d.settings import Share, check_ranges
from anything3d.space.field import FieldConfig
from anything3d.space.render import RenderConfig

CfgScale = Annotated[float, Interval(ge=0, le=1000)]
Rate = Annotated[float, Interval(gt=0, le=100)]


@dataclass(frozen=True, slots=True)
class SdsConfig:
    """`reconstruct.backend = "sds"`: RGB fields that start as the cloud's surface and are compared with the photo."""

    cfg_scale: CfgScale = 2.5  # Classifier-free guidance. DreamFusion takes 100.
    t_min: Share = 0.02  # Earliest timestep, as a share of all timesteps, in every step.
    t_max: Share = 0.60  # Latest timestep, as a share of all timesteps, in the first step.
    t_max_end: Share = 0.25  # The same in the last step; linear between.
    weighting: Weighting = "sds"  # w(t): 1 - alpha_bar as in DreamFusion ("sds"), 1 ("uniform"), or Fantasia3D's.
    # Side in pixels of the views, which are resized to the denoiser's image size where that differs.
    render_size: Annotated[int, Interval(ge=1, le=1024)] = 64
    # Share of the steps in which views are half as large. threestudio's zero123 has three sizes.
    coarse_until: Share = 0.5
    # Lowest and highest grey behind the denoiser's views. Each view draws its own.
    background: tuple[Share, Share] = (1.0, 1.0)
    lr_density: Rate = 0.2  # Learning rate of raw density at the start.
    lr_color: Rate = 0.1  # Learning rate of raw colour at the start.
    # Learning rates at the end / at the start, exponential between.
    lr_decay: Annotated[float, Interval(gt=0, le=10)] = 0.1
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)  # Weights of the losses.

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.t_min > min(self.t_max, self.t_max_end):
            raise ConfigError(
                "setting",
                f"reconstruct.sds.t_min is {self.t_min}; at most t_max and t_max_end, {self.t_max} and "
                f"{self.t_max_end}",
            )
        if self.background[0] > self.background[1]:
            raise ConfigError("setting", f"reconstruct.sds.background is {self.background}; the lower grey comes first")
        if self.coarse_until and self.render_size % 2:
            raise ConfigError(
                "setting",
                f"reconstruct.sds.render_size is {self.render_size}; must be even unless reconstruct.sds.coarse_until "
                "is 0",
            )

    def t_limits(self, progress: float) -> tuple[float, float]:
        """The earliest and the latest timestep, as shares of all timesteps; `progress` runs from 0 to 1."""
        return self.t_min, self.t_max + (self.t_max_end - self.t_max) * progress


@dataclass(frozen=True, slots=True)
class SjcConfig:
    """`reconstruct.backend = "sjc"`: latent fields that start as fog. The defaults are 3DFuse's numbers."""

    cfg_scale: CfgScale = 100.0  # Classifier-free guidance.
    t_min: Share = 0.01  # Earliest timestep, as a share of all timesteps. 3DFuse: 10 of 1,000.
    t_max: Share = 0.97  # Latest timestep, as a share of all timesteps. 3DFuse: 969 of 1,000.
    lr: Rate = 0.05  # Learning rate of Adamax, for raw density and latents.
    emptiness: Weight = 10000.0  # Weight of thin fog in the first half of the steps.
    emptiness_late: Weight = 200000.0  # Weight of thin fog in the second half of the steps.

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.t_min > self.t_max:
            raise ConfigError("setting", f"reconstruct.sjc.t_min is {self.t_min}; at most t_max, {self.t_max}")


@dataclass(frozen=True, slots=True)
class ReconstructConfig:
    """What both backends share, and a section for each."""

    # How a field is distilled. "sds" starts from the cloud and compares with the photo. "sjc" is the authors' code.
    backend: Literal["sds", "sjc"] = "sds"
    weights: str = "diffusion"  # The weights of the denoiser.
    steps: Annotated[int, Interval(ge=1, le=10**6)] = 160  # Steps of the optimiser.
    # Size of the discs that a cloud's points are drawn as: their radius is this / sqrt(number of points), as a share of
    # the image side.
    disc: Annotated[float, Interval(gt=0, le=64)] = 0.9
    hint_scale: Annotated[float, Interval(ge=0, le=100)] = 1.0  # Scale of the ControlNet's residuals; 0 gives no depth.
    # An object is rejected if a larger share of the denoiser's predictions is NaN or Inf. They are left out.
    max_dropped: Annotated[float, Interval(ge=0, lt=1)] = MAX_DROPPED
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
    sds: SdsConfig = dataclasses.field(default_factory=SdsConfig)  # The settings of `reconstruct.backend = "sds"`.
    sjc: SjcConfig = dataclasses.field(default_factory=SjcConfig)  # The settings of `reconstruct.backend = "sjc"`.

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, section, unset in (("sds", self.sds, SdsConfig()), ("sjc", self.sjc, SjcConfig())):
            if name != self.backend and section != unset:
                raise ConfigError(
                    "setting",
                    f'reconstruct.{name} has settings, but reconstruct.backend is "{self.backend}"; leave them out, '
                    f'or set reconstruct.backend = "{name}"',
                )

    @property
    def judges(self) -> bool:
        """Whether fields are compared with the surfaces of their clouds at all."""
        return self.max_fall < 2

"""The settings of `reconstruct`: what the backends share, and a section for each backend that only it reads.

`sds` is the backend of the presets `mini` and `default`, `sjc` is that of the authors' code, which `paper` reproduces.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from anything3d.errors import ConfigError
from anything3d.settings import Share, check_ranges
from anything3d.settings.external import ExternalConfig
from anything3d.settings.shap_e import ShapEConfig

POINT_E_FOV_DEG = math.degrees(2 * math.atan(36 / 2 / 50))  # 39.6: Blender's default lens; Point-E's training renders
POINT_E_DISTANCE = 2.0  # of those renders' camera from the centre of an object with longest side 1
EMPTY = 0.05  # density, 1 / canonical length: a cell with no denser corner holds nothing
MAX_POINTS = 1 << 18  # samples looked up at a time: they fit a CPU's cache (27 % faster than 2^22); 2^22 suits a GPU
CHECKPOINT_EVERY = 40  # steps between two checkpoints
MAX_DROPPED = 0.05  # share of an object's predictions that may be lost as not finite; more is no rounding's accident

Weighting = Literal["sds", "uniform", "fantasia3d"]
Encoder = Literal["vae", "taesd", "linear"]
Weight = Annotated[float, Interval(ge=0, le=10**9)]
CfgScale = Annotated[float, Interval(ge=0, le=1000)]
Rate = Annotated[float, Interval(gt=0, le=100)]
Elevation = Annotated[float, Interval(gt=-90, lt=90)]
Distance = Annotated[float, Interval(gt=0, le=1000)]
Fov = Annotated[float, Interval(gt=0, lt=180)]


@dataclass(frozen=True, slots=True)
class FieldConfig:
    """The cube, its voxels and the activation of density: scale * softplus(raw + bias)."""

    resolution: Annotated[int, Interval(ge=2, le=512)] = 32  # Nodes of the grid along each axis.
    half: Annotated[float, Interval(gt=0, le=10)] = 0.6  # Half the cube's side. An object has longest side 1.
    # What is added to raw density before softplus makes density of it. 3DFuse takes -1.
    density_bias: Annotated[float, Interval(ge=-100, le=100)] = -1.0
    # What softplus is multiplied by, in 1 / canonical length. With 30, one voxel of raw 3 stops 92 % of the light.
    density_scale: Annotated[float, Interval(gt=0, le=10**4)] = 30.0

    def __post_init__(self) -> None:
        check_ranges(self)

    def raw_level(self, density: float) -> float:
        """The raw value whose density is `density` > 0."""
        softplus = density / self.density_scale
        return softplus + math.log(-math.expm1(-softplus)) - self.density_bias


@dataclass(frozen=True, slots=True)
class RenderConfig:
    """How finely a field is rendered."""

    # Samples along the part of each ray that lies inside the cube.
    samples: Annotated[int, Interval(ge=1, le=4096)] = 48
    # Space of a lower density, in 1 / canonical length, is neither looked up nor changed. 0 looks up all of it.
    empty: Annotated[float, Interval(ge=0, le=10**6)] = EMPTY

    def __post_init__(self) -> None:
        check_ranges(self)


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
class LossConfig:
    """The weights of the losses of `sds`. A weight of 0 leaves its loss without effect."""

    # Score distillation, which is a mean over the N latents of a view. Sources that sum over them have a weight of N.
    sds: Weight = 20.0
    reference_rgb: Weight = 20.0  # Difference between the colours of the reference view and those of the photo.
    # Difference between the opacity of the reference view and the mask. Magic123's code takes 2 beside 20, which costs
    # the other views what it gives this one.
    reference_mask: Weight = 1.0
    # Difference between the silhouettes of random views and those of the cloud, at the start. The weight falls linearly
    # to 0 at the end, as in Points-to-3D.
    silhouette: Weight = 2.0
    tv: Weight = 0.2  # Total variation: differences between neighbouring nodes.

    def __post_init__(self) -> None:
        check_ranges(self)


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
    # Share of the steps in which the denoiser sees views of half its image size. It costs a quarter there.
    denoiser_coarse_until: Share = 0.0
    # What makes latents of views until `encoder_until`: the denoiser's own encoder ("vae"), a small network with the
    # same latents ("taesd"), or a linear map of colours that is fitted to the denoiser's own encoder ("linear").
    encoder: Encoder = "vae"
    encoder_until: Share = 0.8  # Share of the steps in which `encoder` is used. Then the denoiser's own takes over.
    encoder_weights: str = "taesd"  # The weights of `encoder = "taesd"`. Those of the preset `default` are "taesd-sd".
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
    """What the backends share, and a section for each."""

    # How a field is distilled. "sds" starts from the cloud and compares with the photo. "sjc" is the authors' code.
    # The others distil nothing, and no setting of `reconstruct` counts but their own: "shap-e" is Shap-E, and with
    # "external" a command makes the meshes.
    backend: Literal["sds", "sjc", "shap-e", "external"] = "sds"
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
    shap_e: ShapEConfig = dataclasses.field(default_factory=ShapEConfig)  # Those of "shap-e".
    external: ExternalConfig = dataclasses.field(default_factory=ExternalConfig)  # Those of "external".

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.backend == "external":
            self.external.check()
        if self.backend in ("shap-e", "external"):  # the numbers of a preset for its own backend do no harm
            return
        sections = {"sds": self.sds, "sjc": self.sjc, "shap-e": self.shap_e, "external": self.external}
        for name, section in sections.items():
            if name != self.backend and section != type(section)():
                raise ConfigError(
                    "setting",
                    f"reconstruct.{name.replace('-', '_')} has settings, but reconstruct.backend is "
                    f'"{self.backend}"; leave them out, or set reconstruct.backend = "{name}"',
                )

    @property
    def judges(self) -> bool:
        """Whether fields are compared with the surfaces of their clouds at all."""
        return self.max_fall < 2

"""Lift makes the coloured cloud of an object from its crop, and finds the camera from which the photo sees the cloud.

Point-E draws several drafts of every object. The draft that looks most like the crop from its best direction is made
denser and gets the reference camera.

Source: Anything-3D (arXiv 2304.10261). Its code takes a single sample and assumes the front view. Its authors and users
report both as weaknesses. So we choose among drafts and search for the camera.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.backend import Backend
from anything3d.errors import Anything3DError, ConfigError, InputError, NumericsError
from anything3d.models.clip import Clip, load_clip
from anything3d.models.finite import MAX_DROPPED, check_network
from anything3d.models.pointe import PointDenoiser, SamplerConfig, check_clip, load_pair, sample
from anything3d.models.weights import Place
from anything3d.photo.pixels import WHITE, over
from anything3d.settings import check_ranges
from anything3d.space.cloud import Cloud, distinct_points, normalise, rounded
from anything3d.space.reference import Matches, ReferenceCamera, direction_grid, directions_near, search, small_crops

MIN_POINTS = 8  # distinct points of a cloud that can be called a shape
DISTINCT = 1e-3  # canonical units; nearer points count as one
BATCH_CLOUDS = 16  # drafts in one call of the base network


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


@dataclass(frozen=True, slots=True)
class Lifted:
    cloud: Cloud  # one, canonical frame
    reference: ReferenceCamera
    match: float  # 0..1, likeness of the cloud seen by the reference camera and the crop (`reference.agreement`)
    candidate: int  # which draft it was made from


@runtime_checkable
class Lifter(Protocol):
    """What a backend of `lift` loads."""

    def __call__(
        self, crops: Float[Tensor, "B 4 S S"], generators: Sequence[torch.Generator]
    ) -> list[Lifted | Anything3DError]:
        """For each crop (RGBA in [0, 1], straight alpha) its cloud and reference camera, or why there is none; row b
        draws from its own generator."""


@dataclass(frozen=True, slots=True)
class PointELifter:
    """Point-E with its upsampler, a frozen CLIP, and the search for the reference camera."""

    base: PointDenoiser
    upsampler: PointDenoiser
    clip: Clip
    config: LiftConfig
    device: torch.device
    batch_clouds: int  # drafts in one call of the base network; more is slower on a CPU (caches), faster on a GPU

    @torch.no_grad()  # not inference_mode: later stages take the clouds into computations with gradients
    def __call__(
        self, crops: Float[Tensor, "B 4 S S"], generators: Sequence[torch.Generator]
    ) -> list[Lifted | Anything3DError]:
        """For each crop (RGBA in [0, 1], alpha = mask) its cloud and reference camera, or why there is none.

        Outcomes: InputError("empty_mask"), NumericsError "cloud_not_finite", "degenerate_cloud" or "camera_not_finite".
        The result does not depend on what else is in the batch; `generators` are one per object.

        Raises: WeightsError as `check_network`.
        """
        crops = crops.to(self.device)
        images = over(crops, WHITE)
        drafts = self._draft(images, generators)
        views, sound = self._judge(drafts, crops)
        chosen = torch.where(sound, views.match.view_as(sound), -1.0).argmax(1)
        rows = torch.arange(len(crops), device=self.device)
        cloud = self._densify(drafts[rows, chosen], images, generators)
        view = self._refine(cloud, crops, views, rows * drafts.shape[1] + chosen)
        has_mask = (crops[:, 3] > 0.5).flatten(1).any(1)
        has_shape = sound.any(1) & is_shape(cloud)
        dropped = (~drafts.isfinite().flatten(2).all(2)).float().mean(1).tolist()
        finite = cloud.is_finite()
        self._check_networks(dropped, finite.tolist())
        lifted = _lifted(rounded(cloud), view, chosen, self.config.distance)
        judged = zip(lifted, has_mask.tolist(), dropped, finite.tolist(), has_shape.tolist(), strict=True)
        return [_outcome(*row) for row in judged]

    def _check_networks(self, dropped: Sequence[float], finite: Sequence[bool]) -> None:
        """Raises: WeightsError if a network, and not the objects, must be the cause of NaN or Inf.

        `dropped` is the share of each object's drafts that are not finite, `finite` says whether its cloud is.
        """
        config, white = self.config, torch.ones(1, 3, self.clip.image_size, self.clip.image_size, device=self.device)

        def draft() -> Float[Tensor, "1 K 6 N"]:
            return self._draft(white, [torch.Generator().manual_seed(0)])

        def denser() -> Cloud:
            return self._densify(draft()[:, 0], white, [torch.Generator().manual_seed(0)])

        lost = [share > MAX_DROPPED for share in dropped]
        if lost and all(lost):  # of NaN from CLIP a base network makes NaN
            check_network([not self.clip.is_sound()], lambda: False, config.clip_weights, self.clip.dtype)
        check_network(lost, lambda: bool(draft().isfinite().all()), config.weights, _dtype(self.base))
        broken = [not sound for sound in finite]
        upsampler, dtype = config.upsampler_weights, _dtype(self.upsampler)
        check_network(broken, lambda: bool(denser().is_finite().all()), upsampler, dtype)

    def _draft(
        self, images: Float[Tensor, "B 3 S S"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "B K 6 N"]:
        """K coarse clouds of each object, as Point-E makes them."""
        config, count = self.config, self.config.candidates
        embeddings = self.clip.image_grid(images)
        few = max(1, self.batch_clouds // count)  # objects at once
        parts = []
        for start in range(0, len(images), few):
            owners = generators[start : start + few]
            noise = seed.randn((count, 6, self.base.config.n_ctx), owners, self.device).flatten(0, 1)
            own = embeddings[start : start + few].repeat_interleave(count, 0)
            clouds = sample(self.base, "base", noise, own, config.base_sampler, generators=owners)
            parts.append(clouds.unflatten(0, (-1, count)))
        return torch.cat(parts)

    def _judge(
        self, drafts: Float[Tensor, "B K 6 N"], crops: Float[Tensor, "B 4 S S"]
    ) -> tuple[Matches, Bool[Tensor, "B K"]]:
        """The best view of every draft [B * K, 1], and which drafts are shapes at all."""
        config = self.config
        cloud = canonical(drafts.flatten(0, 1))
        grid = direction_grid(config.azimuths, config.elevations, config.lowest_deg, config.highest_deg)
        directions = grid.to(self.device).expand(len(cloud), -1, -1)
        small = small_crops(crops, config.draft_match_px).repeat(drafts.shape[1])
        views = search(cloud, small, directions, config.distance).best()
        return views, is_shape(cloud).view(drafts.shape[:2])

    def _densify(
        self, coarse: Float[Tensor, "B 6 N"], images: Float[Tensor, "B 3 S S"], generators: Sequence[torch.Generator]
    ) -> Cloud:
        """The points of the coarse cloud and the upsampler's, in the canonical frame."""
        config = self.config
        embeddings = self.clip.image_grid(images)
        noise = seed.randn((6, self.upsampler.config.n_ctx), generators, self.device)
        dense = sample(self.upsampler, "upsample", noise, embeddings, config.upsampler_sampler, low_res=coarse)
        return canonical(torch.cat([coarse, dense], dim=2))

    def _refine(self, cloud: Cloud, crops: Float[Tensor, "B 4 S S"], views: Matches, rows: Int[Tensor, "B"]) -> Matches:
        """The best view [B, 1] of the final clouds, around the ones that their drafts (`rows` of `views`) had."""
        config = self.config
        around = 180 / config.azimuths if config.azimuths > 1 else 0.0
        between = (config.highest_deg - config.lowest_deg) / max(config.elevations - 1, 1)
        near = directions_near(views.azimuth_deg[rows, 0], views.elevation_deg[rows, 0], (around, between / 2))
        return search(cloud, small_crops(crops, config.match_px), near, config.distance).best()


def load_lifter(config: LiftConfig, place: Place, batch_clouds: int = BATCH_CLOUDS) -> Lifter:
    """What `config.backend` names, ready to be called with `batch_clouds` drafts at a time. Raises: as its `load`."""
    return BACKENDS[config.backend].load(config, place, batch_clouds)


def load_point_e(config: LiftConfig, place: Place, batch_clouds: int = BATCH_CLOUDS) -> PointELifter:
    """Point-E, its upsampler and CLIP, ready for use.

    Raises: WeightsError if one is missing or damaged, or they were not made for each other.
    """
    base, upsampler = load_pair(config.weights, config.upsampler_weights, place)
    clip = load_clip(config.clip_weights, place)
    for network, name in ((base, config.weights), (upsampler, config.upsampler_weights)):
        check_clip(network, name, clip)
    return PointELifter(base, upsampler, clip, config, torch.device(place.device), batch_clouds)


def canonical(channels: Float[Tensor, "B 6 N"]) -> Cloud:
    """Point-E's channels (z up, front -y, rgb 0..255) as clouds in the canonical frame (y up, front +z), normalised."""
    x, y, z = channels[:, :3].unbind(1)
    colors = (channels[:, 3:].transpose(1, 2) / 255).clamp(0, 1)
    return normalise(Cloud(torch.stack([x, z, -y], dim=-1), colors))


def is_shape(cloud: Cloud) -> Bool[Tensor, "B"]:
    """Whether a cloud has no NaN and enough distinct points."""
    return distinct_points(cloud, DISTINCT) >= MIN_POINTS


def _lifted(cloud: Cloud, view: Matches, chosen: Int[Tensor, "B"], distance: float) -> list[Lifted]:
    """Object by object; the numbers come to the host at once."""
    numbers = torch.cat([view.azimuth_deg, view.elevation_deg, view.intrinsics[:, 0], view.match], dim=1).tolist()
    return [
        Lifted(cloud[b : b + 1], ReferenceCamera(azimuth, elevation, distance, (fx, fy, cx, cy)), match, candidate)
        for b, ((azimuth, elevation, fx, fy, cx, cy, match), candidate) in enumerate(
            zip(numbers, chosen.tolist(), strict=True)
        )
    ]


def _dtype(network: PointDenoiser) -> torch.dtype:
    return next(network.parameters()).dtype


def _outcome(lifted: Lifted, has_mask: bool, dropped: float, finite: bool, has_shape: bool) -> Lifted | Anything3DError:
    if not has_mask:
        return InputError("empty_mask", "no pixel of the crop has alpha above 1/2; a mask is needed")
    if dropped > MAX_DROPPED or not finite:
        message = f"{dropped:.0%} of the drafts, at most {MAX_DROPPED:.0%} may, or the dense cloud have NaN or Inf"
        return NumericsError("cloud_not_finite", f"{message}; try another dtype")
    if not has_shape:
        return NumericsError(
            "degenerate_cloud", f"every draft, or the dense cloud, has fewer than {MIN_POINTS} distinct points"
        )
    seen = lifted.reference
    if not all(map(math.isfinite, (lifted.match, seen.azimuth_deg, seen.elevation_deg, *seen.intrinsics))):
        return NumericsError("camera_not_finite", f"the reference camera, or its match, has NaN or Inf: {seen}")
    return lifted


BACKENDS: Mapping[str, Backend[LiftConfig, Lifter]] = {
    "point-e": Backend(
        weights=lambda config: (config.weights, config.upsampler_weights, config.clip_weights), load=load_point_e
    ),
}

"""Lift makes the coloured cloud of an object from its crop, and finds the camera from which the photo sees the cloud.

Point-E draws several drafts of every object. The draft that looks most like the crop from its best direction is made
denser and gets the reference camera.

Source: Anything-3D (arXiv 2304.10261). Its code takes a single sample and assumes the front view. Its authors and users
report both as weaknesses. So we choose among drafts and search for the camera.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.errors import Anything3DError, InputError, NumericsError
from anything3d.models.clip import Clip, load_clip
from anything3d.models.finite import check_network
from anything3d.models.pointe import PointDenoiser, check_clip, load_pair, sample
from anything3d.models.weights import Place
from anything3d.photo.pixels import WHITE, over
from anything3d.settings.lift import LiftConfig
from anything3d.settings.reconstruct import MAX_DROPPED
from anything3d.space.cloud import Cloud, distinct_points, gathered, normalise, rounded, strays
from anything3d.space.reference import Matches, direction_grid, directions_near, search, small_crops
from anything3d.space.viewpoint import ReferenceCamera

MIN_POINTS = 8  # distinct points of a cloud that can be called a shape
DISTINCT = 1e-3  # canonical units; nearer points count as one


@dataclass(frozen=True, slots=True)
class Lifted:
    cloud: Cloud  # one, canonical frame
    reference: ReferenceCamera
    match: float  # 0..1, likeness of the cloud seen by the reference camera and the crop (`reference.agreement`)
    candidate: int  # which draft it was made from
    strays: int  # points that lay far from all others, and were moved onto the cloud


@runtime_checkable
class Lifter(Protocol):
    """What a backend of `lift` loads."""

    def __call__(
        self,
        crops: Float[Tensor, "B 4 S S"],
        generators: Sequence[torch.Generator],
        unseen: Float[Tensor, "B S S"] | None = None,
    ) -> list[Lifted | Anything3DError]:
        """For each crop (RGBA in [0, 1], straight alpha) its cloud and reference camera, or why there is none.

        Row b draws from its own generator. `unseen` is the share of each pixel in which the object may go on without
        being seen; None: it ends where its mask ends.
        """


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the networks make of B crops, where they lie."""

    cloud: Cloud
    view: Matches  # the best one of each, [B, 1]
    chosen: Int[Tensor, "B"]  # which draft it was made from
    has_shape: Bool[Tensor, "B"]
    dropped: Float[Tensor, "B"]  # share of the drafts that are not finite
    strays: Int[Tensor, "B"]  # points of each cloud that were moved


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
        self,
        crops: Float[Tensor, "B 4 S S"],
        generators: Sequence[torch.Generator],
        unseen: Float[Tensor, "B S S"] | None = None,
    ) -> list[Lifted | Anything3DError]:
        """For each crop (RGBA in [0, 1], alpha = mask) its cloud and reference camera, or why there is none.

        Outcomes: InputError("empty_mask"), NumericsError "cloud_not_finite", "degenerate_cloud" or "camera_not_finite".
        The result does not depend on what else is in the batch; `generators` are one per object.

        Raises: WeightsError as `check_network`.
        """
        crops = crops.to(self.device)
        drawn = self.draw(crops, generators, None if unseen is None else unseen.to(self.device))
        has_mask = (crops[:, 3] > 0.5).flatten(1).any(1)
        dropped, finite = drawn.dropped.tolist(), drawn.cloud.is_finite().tolist()
        self._check_networks(dropped, finite)
        lifted = _lifted(rounded(drawn.cloud), drawn.view, drawn.chosen, drawn.strays, self.config.distance)
        judged = zip(lifted, has_mask.tolist(), dropped, finite, drawn.has_shape.tolist(), strict=True)
        return [_outcome(*row) for row in judged]

    def draw(
        self,
        crops: Float[Tensor, "B 4 S S"],
        generators: Sequence[torch.Generator],
        unseen: Float[Tensor, "B S S"] | None = None,
    ) -> Drawn:
        """The clouds and how they are seen, on the device. Nothing here waits for it."""
        images = over(crops, WHITE)
        drafts = self._draft(images, generators)
        views, sound = self._judge(drafts, crops, unseen)
        chosen = torch.where(sound, views.match.view_as(sound), -1.0).argmax(1)
        rows = torch.arange(len(crops), device=self.device)
        cloud, stray = self._densify(drafts[rows, chosen], images, generators)
        view = self._refine(cloud, crops, unseen, views, rows * drafts.shape[1] + chosen)
        dropped = (~drafts.isfinite().flatten(2).all(2)).float().mean(1)
        return Drawn(cloud, view, chosen, sound.any(1) & is_shape(cloud), dropped, stray.sum(1))

    def _check_networks(self, dropped: Sequence[float], finite: Sequence[bool]) -> None:
        """Raises: WeightsError if a network, and not the objects, must be the cause of NaN or Inf.

        `dropped` is the share of each object's drafts that are not finite, `finite` says whether its cloud is.
        """
        config, white = self.config, torch.ones(1, 3, self.clip.image_size, self.clip.image_size, device=self.device)

        def draft() -> Float[Tensor, "1 K 6 N"]:
            return self._draft(white, [torch.Generator().manual_seed(0)])

        def denser() -> Cloud:
            return self._densify(draft()[:, 0], white, [torch.Generator().manual_seed(0)])[0]

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
        self, drafts: Float[Tensor, "B K 6 N"], crops: Float[Tensor, "B 4 S S"], unseen: Float[Tensor, "B S S"] | None
    ) -> tuple[Matches, Bool[Tensor, "B K"]]:
        """The best view of every draft [B * K, 1], and which drafts are shapes at all."""
        config = self.config
        cloud, _ = canonical(drafts.flatten(0, 1))
        grid = direction_grid(config.azimuths, config.elevations, config.lowest_deg, config.highest_deg)
        directions = grid.to(self.device).expand(len(cloud), -1, -1)
        small = small_crops(crops, config.draft_match_px, unseen).repeat(drafts.shape[1])
        views = search(cloud, small, directions, config.distance).best()
        return views, is_shape(cloud).view(drafts.shape[:2])

    def _densify(
        self, coarse: Float[Tensor, "B 6 N"], images: Float[Tensor, "B 3 S S"], generators: Sequence[torch.Generator]
    ) -> tuple[Cloud, Bool[Tensor, "B M"]]:
        """The points of the coarse cloud and the upsampler's, in the canonical frame, and which ones were stray."""
        config = self.config
        embeddings = self.clip.image_grid(images)
        noise = seed.randn((6, self.upsampler.config.n_ctx), generators, self.device)
        dense = sample(self.upsampler, "upsample", noise, embeddings, config.upsampler_sampler, low_res=coarse)
        return canonical(torch.cat([coarse, dense], dim=2))

    def _refine(
        self,
        cloud: Cloud,
        crops: Float[Tensor, "B 4 S S"],
        unseen: Float[Tensor, "B S S"] | None,
        views: Matches,
        rows: Int[Tensor, "B"],
    ) -> Matches:
        """The best view [B, 1] of the final clouds, around the ones that their drafts (`rows` of `views`) had."""
        config = self.config
        around = 180 / config.azimuths if config.azimuths > 1 else 0.0
        between = (config.highest_deg - config.lowest_deg) / max(config.elevations - 1, 1)
        near = directions_near(views.azimuth_deg[rows, 0], views.elevation_deg[rows, 0], (around, between / 2))
        return search(cloud, small_crops(crops, config.match_px, unseen), near, config.distance).best()


def load_point_e(config: LiftConfig, place: Place, batch_clouds: int) -> PointELifter:
    """Point-E, its upsampler and CLIP, ready for use.

    Raises: WeightsError if one is missing or damaged, or they were not made for each other.
    """
    base, upsampler = load_pair(config.weights, config.upsampler_weights, place)
    clip = load_clip(config.clip_weights, place)
    for network, name in ((base, config.weights), (upsampler, config.upsampler_weights)):
        check_clip(network, name, clip)
    return PointELifter(base, upsampler, clip, config, torch.device(place.device), batch_clouds)


def canonical(channels: Float[Tensor, "B 6 N"]) -> tuple[Cloud, Bool[Tensor, "B N"]]:
    """Point-E's channels (z up, front -y, rgb 0..255) as clouds in the canonical frame (y up, front +z), normalised.

    Stray points do not decide where the frame is: they are moved onto the cloud. Which ones these are is said.
    """
    x, y, z = channels[:, :3].unbind(1)
    colors = (channels[:, 3:].transpose(1, 2) / 255).clamp(0, 1)
    cloud = Cloud(torch.stack([x, z, -y], dim=-1), colors)
    stray = strays(cloud)
    return normalise(gathered(cloud, stray)), stray


def is_shape(cloud: Cloud) -> Bool[Tensor, "B"]:
    """Whether a cloud has no NaN and enough distinct points."""
    return distinct_points(cloud, DISTINCT) >= MIN_POINTS


def _lifted(
    cloud: Cloud, view: Matches, chosen: Int[Tensor, "B"], strays: Int[Tensor, "B"], distance: float
) -> list[Lifted]:
    """Object by object; the numbers come to the host at once."""
    numbers = torch.cat([view.azimuth_deg, view.elevation_deg, view.intrinsics[:, 0], view.match], dim=1).tolist()
    return [
        Lifted(cloud[b : b + 1], ReferenceCamera(azimuth, elevation, distance, (fx, fy, cx, cy)), match, *counts)
        for b, ((azimuth, elevation, fx, fy, cx, cy, match), *counts) in enumerate(
            zip(numbers, chosen.tolist(), strays.tolist(), strict=True)
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

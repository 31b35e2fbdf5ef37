"""Scores of one object: against its own photo always, and against ground truth where it exists."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from anything3d.errors import NumericsError
from anything3d.models.clip import Clip, load_clip
from anything3d.models.dino import Dino, load_dino
from anything3d.models.finite import check_network
from anything3d.models.weights import Place
from anything3d.photo.pixels import WHITE, over
from anything3d.quality.accuracy import NORMALIZATION, TruthScores, against_truth
from anything3d.quality.duplicates import to_bytes
from anything3d.quality.likeness import similarity, turntable
from anything3d.quality.looks import Reconstruction, compare, look, resize
from anything3d.quality.soundness import Soundness, soundness
from anything3d.quality.tier import Tier, tier
from anything3d.quality.truth import Target
from anything3d.settings.score import ScoreConfig
from anything3d.space.camera import Camera
from anything3d.space.field import Field
from anything3d.space.mesh import Mesh
from anything3d.space.render import Rendering, composite

CLIP_NOT_FINITE = "clip_not_finite"  # the reason where a similarity is NaN or Inf
DINO_NOT_FINITE = "dino_not_finite"  # likewise, of the other network
NO_TRUTH = "no ground truth: compared with the photo only"


@dataclass(frozen=True, slots=True)
class Looks:
    """How much a shape looks like its photo."""

    psnr_db: float  # at the reference camera against the crop, both on white, without what the photo cannot show
    mask_iou: float  # of the same two silhouettes
    clip_similarity: float  # mean cosine between the crop and the turntable's views, on white
    front_back: float  # cosine of the turntable's view from the photo's side and the one from behind; 1 if there is one


@dataclass(frozen=True, slots=True)
class DinoLikeness:
    """How much a mesh looks like its photo, as DINOv2 sees it, on white. Its processor cuts off an edge of both."""

    turntable: float  # mean cosine between the crop and the turntable's views
    reference: float  # cosine of the crop and the view of the reference camera
    crop: bytes  # the unit vector of the crop, as `quality.duplicates` reads it


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of one object, and the pictures they were taken from. `truth` is None where there is no truth."""

    field: Looks  # of the field, or the mesh where there is none
    mesh: Looks  # of the mesh
    dino: DinoLikeness  # of the mesh
    sound: Soundness  # of the mesh
    quality: Tier  # of the mesh, from these two
    truth: TruthScores | None
    normalization: str  # how the shapes were brought into one frame, in words
    reference: UInt8[Tensor, "S S 4"]  # RGBA, straight alpha: the mesh at the reference camera
    turntable: UInt8[Tensor, "T S S 3"]  # the mesh on white, all round from the reference azimuth


@dataclass(frozen=True, slots=True)
class Scorer:
    """A frozen CLIP, a frozen DINOv2, and the settings of the renders. Fields are rendered where the CLIP is."""

    config: ScoreConfig
    clip: Clip
    dino: Dino

    @torch.inference_mode()
    def __call__(
        self,
        made: Sequence[Reconstruction],
        targets: Sequence[Target | None],
        generators: Sequence[torch.Generator],
    ) -> list[Scored | NumericsError]:
        """All scores of each object; `generators` (one per object) draw the surface samples.

        The objects come one after the other: the turntable of one alone has enough rays to fill a device.

        Outcomes: NumericsError if the mesh or the cloud has no extent, or the field or a score is not finite.

        Raises: WeightsError as `check_network`.
        """
        rows = zip(made, targets, generators, strict=True)
        outcomes = [self._outcome(one, target, generator) for one, target, generator in rows]
        for network, weights, reason in (
            (self.clip, self.config.clip_weights, CLIP_NOT_FINITE),
            (self.dino, self.config.dino_weights, DINO_NOT_FINITE),
        ):
            unlike = [isinstance(outcome, NumericsError) and outcome.reason == reason for outcome in outcomes]
            check_network(unlike, network.is_sound, weights, network.dtype)
        return outcomes

    def _outcome(
        self, made: Reconstruction, target: Target | None, generator: torch.Generator
    ) -> Scored | NumericsError:
        try:
            return self._score(made, target, generator)
        except NumericsError as error:
            return error

    def _score(self, made: Reconstruction, target: Target | None, generator: torch.Generator) -> Scored:
        if made.field is not None:
            made = replace(made, field=made.field.row(0).to(self.clip.device))
        around = turntable(made.reference, self.config.views, self.config.turntable_elevation_deg)
        of_mesh, reference, views = self._judge(made.mesh, made, around)
        of_field = of_mesh if made.field is None else self._judge(made.field, made, around)[0]
        sound = soundness(made.mesh)
        return Scored(
            field=of_field,
            mesh=of_mesh,
            dino=self._compare(made.crop, reference, views),
            sound=sound,
            quality=tier(
                min(of_field.psnr_db, of_mesh.psnr_db),
                min(of_field.mask_iou, of_mesh.mask_iou),
                sound,
                len(made.mesh.faces),
            ),
            truth=None if target is None else against_truth(made, target, self.config, generator),
            normalization=NO_TRUTH if target is None else NORMALIZATION,
            reference=straight_rgba(reference)[0],
            turntable=to_uint8(views).cpu(),
        )

    def _judge(
        self, shape: Field | Mesh, made: Reconstruction, around: Camera
    ) -> tuple[Looks, Rendering, Float[Tensor, "T 3 S S"]]:
        """How the shape looks, what the reference camera sees of it, and what those around it see, on white."""
        size, samples, device = self.config.size_px, self.config.samples, self.clip.device
        crop = made.crop[None].float().cpu()
        reference = look(shape, made.reference, size, samples, device).to("cpu")
        unseen = resize(made.unseen[None, None].float().cpu(), size)[:, 0]
        shown = reference.at_most(1 - unseen)
        psnr, iou = compare(shown, resize(over(crop, WHITE), size), resize(crop[:, 3:], size)[:, 0])
        views = composite(look(shape, around, size, samples, device), WHITE)
        seen = self.clip.image_embeddings(views)
        likeness = float(similarity(self.clip, seen, made.crop[None].to(device)))
        if not math.isfinite(likeness):
            raise NumericsError(CLIP_NOT_FINITE, f"the CLIP similarity is {likeness}; try another dtype")
        front_back = float(seen[0] @ seen[len(seen) // 2])
        return Looks(float(psnr), float(iou), likeness, front_back), reference, views

    def _compare(
        self, crop: Float[Tensor, "4 S S"], reference: Rendering, views: Float[Tensor, "T 3 V V"]
    ) -> DinoLikeness:
        """The mesh beside the crop, all views in one pass."""
        seen = self.dino.image_embeddings(over(crop[None].float(), WHITE), composite(reference, WHITE), views)
        cosines = seen[1:] @ seen[0]
        reference_cosine, mean = float(cosines[0]), float(cosines[1:].mean())
        if not math.isfinite(reference_cosine + mean):
            raise NumericsError(DINO_NOT_FINITE, f"a DINOv2 similarity is {reference_cosine + mean}; try another dtype")
        return DinoLikeness(mean, reference_cosine, to_bytes(seen[0]))


def straight_rgba(rendering: Rendering) -> UInt8[Tensor, "V S S 4"]:
    """The rendering with its colour divided by its opacity, as image files keep it."""
    alpha = rendering.alpha[:, None]
    return to_uint8(torch.cat([rendering.color / alpha.clamp(min=1e-6), alpha], dim=1))


def to_uint8(images: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B H W C"]:
    """Rounded to 8 bits, channels last."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def load_scorer(config: ScoreConfig, place: Place) -> Scorer:
    """Raises: WeightsError for a missing or broken CLIP or DINOv2."""
    return Scorer(config, load_clip(config.clip_weights, place), load_dino(config.dino_weights, place))

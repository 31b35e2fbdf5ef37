"""Scores of one object: against its own photo always, and against ground truth where it exists.

The truth and the reconstruction have different canonical frames. Both are upright, but their fronts need not agree.
They share the photo: for both frames it is known from where the photo was taken. The turn about the vertical between
the frames follows from these two azimuths. Nothing is fitted (no ICP). So a wrong azimuth makes every number worse, and
it should. A wrong elevation does not tilt an upright object. It makes the object fit the photo less well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from anything3d.errors import NumericsError
from anything3d.models.clip import Clip, load_clip
from anything3d.models.finite import check_network
from anything3d.models.weights import Place
from anything3d.photo.pixels import WHITE, over
from anything3d.quality import metrics
from anything3d.quality.likeness import similarity, turntable
from anything3d.quality.truth import Target
from anything3d.settings.reconstruct import MAX_POINTS, RenderConfig
from anything3d.settings.score import ScoreConfig
from anything3d.space.camera import Camera, angles, orbit
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from anything3d.space.mesh import Mesh
from anything3d.space.raster import rasterize
from anything3d.space.render import Rendering, composite, render

FSCORE_TAUS = (0.01, 0.02, 0.05)  # of the longest side; the `1pct`, `2pct` and `5pct` in the scores' names
GPU_POINTS = 1 << 22  # samples that a GPU looks up at a time: about 0.5 GB of work space
SOLID = 0.5  # alpha above which a pixel belongs to a silhouette
CLIP_NOT_FINITE = "clip_not_finite"  # the reason where a similarity is NaN or Inf
NO_TRUTH = "no ground truth: compared with the photo only"
NORMALIZATION = (
    "the prediction is turned about the vertical into the true canonical frame, by the two cameras' azimuths (no ICP); "
    "surfaces are then centred and scaled to bounding boxes with longest side 1, each by its own; the novel views' "
    "cameras move with the mesh"
)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """One object as the pipeline made it, in its own canonical frame."""

    crop: Float[Tensor, "4 S S"]  # RGBA in [0, 1], straight alpha
    reference: Camera  # one, from which the crop sees the object
    cloud: Cloud | None  # one, from which the field was made; None if the backend of reconstruct needs none
    field: Field | None  # one; None if the backend of reconstruct has made the mesh itself
    mesh: Mesh  # as the GLB has it that people get


@dataclass(frozen=True, slots=True)
class TruthScores:
    """How far one object is from its ground truth; lengths in longest sides. See NORMALIZATION."""

    azimuth_error_deg: float  # up to the true shape's symmetry: 0..180, 0..90 for a box, 0 for a body of revolution
    lift_chamfer: float | None  # of the cloud, before refinement; None if there is none
    chamfer: float  # of the mesh
    fscore_1pct: float  # of the mesh, 0..1; 1 % of the longest side
    fscore_2pct: float
    fscore_5pct: float
    novel_psnr_db: float  # of the field, or the mesh where there is none; mean over the true views, on white
    novel_mask_iou: float  # of the same; mean over the true views
    mesh_novel_psnr_db: float  # the same two, of the mesh
    mesh_novel_mask_iou: float


@dataclass(frozen=True, slots=True)
class Looks:
    """How much a shape looks like its photo."""

    psnr_db: float  # at the reference camera against the crop, both on white
    mask_iou: float  # of the same two silhouettes
    clip_similarity: float  # mean cosine between the crop and the turntable's views, on white


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of one object, and the pictures they were taken from. `truth` is None where there is no truth."""

    field: Looks  # of the field, or the mesh where there is none
    mesh: Looks  # of the mesh
    truth: TruthScores | None
    normalization: str  # how the shapes were brought into one frame, in words
    reference: UInt8[Tensor, "S S 4"]  # RGBA, straight alpha: the mesh at the reference camera
    turntable: UInt8[Tensor, "T S S 3"]  # the mesh on white, all round from the reference azimuth


@dataclass(frozen=True, slots=True)
class Scorer:
    """A frozen CLIP and the settings of the renders. Fields are rendered where the CLIP is."""

    config: ScoreConfig
    clip: Clip

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
        unlike = [isinstance(outcome, NumericsError) and outcome.reason == CLIP_NOT_FINITE for outcome in outcomes]
        check_network(unlike, self.clip.is_sound, self.config.clip_weights, self.clip.dtype)
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
        return Scored(
            field=of_field,
            mesh=of_mesh,
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
        psnr, iou = compare(reference, resize(over(crop, WHITE), size), resize(crop[:, 3:], size)[:, 0])
        views = composite(look(shape, around, size, samples, device), WHITE)
        likeness = float(similarity(self.clip, views, made.crop[None].to(device)))
        if not math.isfinite(likeness):
            raise NumericsError(CLIP_NOT_FINITE, f"the CLIP similarity is {likeness}; try another dtype")
        return Looks(float(psnr), float(iou), likeness), reference, views


@torch.inference_mode()
def against_truth(made: Reconstruction, target: Target, config: ScoreConfig, generator: torch.Generator) -> TruthScores:
    """How far one object is from its ground truth; `generator` draws the surface samples.

    Raises: NumericsError if the mesh or the cloud has no extent, or the field is not finite.
    """
    n = config.points
    turn = frame_turn(made.reference, target)
    true = metrics.normalise_points(subset(target.points, n, generator)[None])
    vertices, faces = torch.from_numpy(made.mesh.vertices), torch.from_numpy(made.mesh.faces)
    surface = metrics.sample_surface(vertices, faces, n, generator)
    surface = metrics.normalise_points(surface[None] @ turn.T)
    lift_chamfer = None
    if made.cloud is not None:
        cloud = metrics.normalise_points(subset(made.cloud.points[0].cpu(), n, generator)[None] @ turn.T)
        lift_chamfer = float(metrics.chamfer(cloud, true))

    cameras = cameras_around(vertices, target.cameras, turn)
    of_mesh = novel_views(made.mesh, cameras, target, config.samples)
    of_field = of_mesh if made.field is None else novel_views(made.field, cameras, target, config.samples)
    fscores = [float(metrics.fscore(surface, true, tau)) for tau in FSCORE_TAUS]
    return TruthScores(
        azimuth_error_deg=azimuth_error_deg(made.reference, target),
        lift_chamfer=lift_chamfer,
        chamfer=float(metrics.chamfer(surface, true)),
        fscore_1pct=fscores[0],
        fscore_2pct=fscores[1],
        fscore_5pct=fscores[2],
        novel_psnr_db=of_field[0],
        novel_mask_iou=of_field[1],
        mesh_novel_psnr_db=of_mesh[0],
        mesh_novel_mask_iou=of_mesh[1],
    )


def novel_views(shape: Field | Mesh, cameras: Camera, target: Target, samples: int) -> tuple[float, float]:
    """Mean PSNR (dB) and mean IoU of the silhouettes over the true views, on white."""
    device = torch.device("cpu") if isinstance(shape, Mesh) else shape.density_grid.device
    seen = look(shape, cameras, target.views.shape[-1], samples, device).to("cpu")
    psnr, iou = compare(seen, over(target.views, WHITE), target.views[:, 3])
    return float(psnr.mean()), float(iou.mean())


def look(shape: Field | Mesh, camera: Camera, size: int, samples: int, device: torch.device) -> Rendering:
    """A shape as it is seen. It is rendered on the device, where a field has to lie already.

    Raises: NumericsError("field_not_finite"): as numbers of 8 bits, and in silhouettes, a NaN would not be seen.
    """
    if isinstance(shape, Mesh):
        seen = rasterize(shape, camera.to(device), size)
    else:
        max_points = MAX_POINTS if device.type == "cpu" else GPU_POINTS
        seen = render(shape, camera.to(device), size, RenderConfig(samples=samples), max_points=max_points)
    if not bool(seen.color.isfinite().all() & seen.alpha.isfinite().all()):
        raise NumericsError("field_not_finite", "the field has a NaN or Inf, seen from a camera of the scores")
    return seen


def compare(
    rendering: Rendering, white: Float[Tensor, "V 3 S S"], alpha: Float[Tensor, "V S S"]
) -> tuple[Float[Tensor, "V"], Float[Tensor, "V"]]:
    """PSNR (dB) of renderings on white against images on white, and IoU of the silhouettes."""
    iou = metrics.mask_iou(rendering.alpha > SOLID, alpha > SOLID)
    return metrics.psnr_db(composite(rendering, WHITE).clamp(0, 1), white), iou


def frame_turn(reference: Camera, target: Target) -> Float[Tensor, "3 3"]:
    """The rotation about y from the predicted canonical frame to the true one.

    Both frames know the azimuth from which the photo was taken; a level, upright camera that looks from there at the
    origin is one camera in both.
    """
    azimuth, _ = angles(reference)
    return _level(torch.tensor([target.azimuth_deg])) @ _level(azimuth.cpu()).T


def _level(azimuth_deg: Float[Tensor, "1"]) -> Float[Tensor, "3 3"]:
    one = torch.ones_like(azimuth_deg)
    return orbit(azimuth_deg, 0 * one, one, one).pose[0, :3, :3]


def cameras_around(vertices: Float[Tensor, "V 3"], cameras: Camera, turn: Float[Tensor, "3 3"]) -> Camera:
    """Cameras of the true frame where they see the prediction as they see the truth.

    `turn` is the rotation from the predicted to the true frame; there the truth's bounding box has its centre at 0 and
    its longest side is 1, and that of the predicted `vertices` is made the same.
    """
    turned = vertices @ turn.T
    low, high = turned.amin(0), turned.amax(0)
    pose = cameras.pose.clone()
    pose[:, :3, 3] = (low + high) / 2 + (high - low).max() * cameras.pose[:, :3, 3]
    pose[:, :3] = turn.T @ pose[:, :3]
    return Camera(pose, cameras.intrinsics)


def azimuth_error_deg(reference: Camera, target: Target) -> float:
    """How far the photo's estimated azimuth is from the true one, each in its own canonical frame; 0..180.

    Turns that leave the true shape as it is do not count.
    """
    azimuth, _ = angles(reference)
    true = torch.tensor([target.azimuth_deg])
    return float(metrics.angle_difference_deg(azimuth.cpu(), true, target.symmetry_deg))


def subset(points: Float[Tensor, "N 3"], n: int, generator: torch.Generator) -> Float[Tensor, "M 3"]:
    """`n` of the points, or all if there are no more."""
    return points[torch.randperm(len(points), generator=generator)[:n]]


def resize(images: Float[Tensor, "B C S S"], size: int) -> Float[Tensor, "B C T T"]:
    """Squares of `size` px, antialiased."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def straight_rgba(rendering: Rendering) -> UInt8[Tensor, "V S S 4"]:
    """The rendering with its colour divided by its opacity, as image files keep it."""
    alpha = rendering.alpha[:, None]
    return to_uint8(torch.cat([rendering.color / alpha.clamp(min=1e-6), alpha], dim=1))


def to_uint8(images: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B H W C"]:
    """Rounded to 8 bits, channels last."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def load_scorer(config: ScoreConfig, place: Place) -> Scorer:
    """Raises: WeightsError for a missing or broken CLIP."""
    return Scorer(config, load_clip(config.clip_weights, place))

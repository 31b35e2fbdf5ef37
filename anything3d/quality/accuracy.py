"""How far one object is from its ground truth.

The truth and the reconstruction have different canonical frames. Both are upright, but their fronts need not agree.
They share the photo: for both frames it is known from where the photo was taken. The turn about the vertical between
the frames follows from these two azimuths. Nothing is fitted (no ICP). So a wrong azimuth makes every number worse, and
it should. A wrong elevation does not tilt an upright object. It makes the object fit the photo less well.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.photo.pixels import WHITE, over
from anything3d.quality import metrics
from anything3d.quality.looks import Reconstruction, compare, look
from anything3d.quality.occupancy import occupancy, volume_iou
from anything3d.quality.sa3dao import sa3dao
from anything3d.quality.truth import Target
from anything3d.settings.score import ScoreConfig
from anything3d.space.camera import Camera, angles, orbit
from anything3d.space.field import Field
from anything3d.space.mesh import Mesh, unit_box

VOLUME_CELLS = 64  # along each side of the cube in which volumes are compared
FSCORE_TAUS = (0.01, 0.02, 0.05)  # of the longest side; the `1pct`, `2pct` and `5pct` in the scores' names
NORMALIZATION = (
    "the prediction is turned about the vertical into the true canonical frame, by the two cameras' azimuths (no ICP); "
    "surfaces are then centred and scaled to bounding boxes with longest side 1, each by its own; the novel views' "
    "cameras move with the mesh"
)


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
    normal_consistency: float | None  # of the mesh, 0..1; this and the next three are None if the truth is points only
    volume_iou: float | None  # of the mesh, 0..1; of the cells of a grid of VOLUME_CELLS^3
    sa3dao_chamfer: float | None  # of the mesh, in halves of the longest side; see sa3dao.py
    sa3dao_f1: float | None


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
        **against_solid(made.mesh, turn, target.solid, config, generator),
    )


def against_solid(
    mesh: Mesh, turn: Float[Tensor, "3 3"], solid: Mesh | None, config: ScoreConfig, generator: torch.Generator
) -> dict[str, float | None]:
    """The scores that need the true surface as triangles; `turn` takes the mesh to the true frame."""
    if solid is None:
        return dict.fromkeys(("normal_consistency", "volume_iou", "sa3dao_chamfer", "sa3dao_f1"))
    turned = replace(mesh, vertices=(torch.from_numpy(mesh.vertices) @ turn.T).numpy())
    ours, theirs = (unit_box(shape) for shape in (turned, solid))
    sides = []
    for shape in (ours, theirs):
        vertices, faces = torch.from_numpy(shape.vertices), torch.from_numpy(shape.faces)
        points, chosen = metrics.sample_faces(vertices, faces, config.points, generator)
        sides += [points, metrics.face_normals(vertices, faces)[chosen]]
    filled = [occupancy(shape.vertices[shape.faces], VOLUME_CELLS) for shape in (ours, theirs)]
    free = sa3dao(ours, theirs, config.sa3dao_points, generator)
    return {
        "normal_consistency": metrics.normal_consistency(*sides),
        "volume_iou": volume_iou(*filled),
        "sa3dao_chamfer": free.chamfer,
        "sa3dao_f1": free.f1,
    }


def novel_views(shape: Field | Mesh, cameras: Camera, target: Target, samples: int) -> tuple[float, float]:
    """Mean PSNR (dB) and mean IoU of the silhouettes over the true views, on white."""
    device = torch.device("cpu") if isinstance(shape, Mesh) else shape.density_grid.device
    seen = look(shape, cameras, target.views.shape[-1], samples, device).to("cpu")
    psnr, iou = compare(seen, over(target.views, WHITE), target.views[:, 3])
    return float(psnr.mean()), float(iou.mean())


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

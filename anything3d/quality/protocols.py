"""Sets of true meshes that others publish: how they lie in a folder, and how shapes are compared with them.

The frames of our meshes are not those of the sets. So both protocols let ICP turn a mesh, from the 24 rotations that
take axes to axes, and the best end counts.

Sources: Google Scanned Objects, Downs et al. 2022, with the measures of SyncDreamer, Liu et al. 2023 (eval_mesh.py),
which Wonder3D and OpenLRM use with ICP; SA-3DAO, SAM 3D, Chen et al. 2025. SyncDreamer compares points that 16 cameras
see, and leaves the size of a prediction as it is. Here points are of all triangles, and both shapes have one size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from anything3d.errors import SourceError
from anything3d.quality.occupancy import occupancy, volume_iou
from anything3d.quality.sa3dao import aligned, apart, axis_rotations, moved, samples
from anything3d.quality.summary import Summary, summary
from anything3d.space.mesh import Mesh, unit_box

Protocol = Literal["sa3dao", "gso"]
MEASURES: Mapping[Protocol, tuple[str, ...]] = {
    "sa3dao": ("chamfer", "f1_001", "voxel_iou"),  # halves of the longest side; 0..1; 0..1
    "gso": ("chamfer", "volume_iou"),  # longest sides; 0..1
}
GSO_MESH = "meshes/model.obj"  # below the folder of each object, as Gazebo Fuel gives it
ENDINGS = (".glb", ".gltf", ".obj", ".ply", ".stl")
CELLS = 64  # along the sides of the cube from -1 to 1; beyond it they go on, as far as ICP may turn a mesh
POINTS = 1_000_000  # of each surface: SA-3DAO's number


def true_meshes(folder: Path, protocol: Protocol) -> dict[str, Path]:
    """Name -> mesh of every object of the set.

    `gso`: <name>/meshes/model.obj. `sa3dao`: <name>.glb, or any other format of ENDINGS, at any depth.

    Raises: SourceError("no_truth") if there is none; ("bad_truth") if two have one name.
    """
    if protocol == "gso":
        found = [(path.parent.parent.name, path) for path in sorted(folder.glob(f"**/{GSO_MESH}"))]
    else:
        found = [(path.stem, path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS]
    meshes: dict[str, Path] = {}
    for name, path in found:
        if (other := meshes.setdefault(name, path)) is not path:
            raise SourceError("bad_truth", f"{other} and {path} both are the object {name!r}; give a folder with one")
    if not meshes:
        layout = f"<name>/{GSO_MESH}" if protocol == "gso" else f"<name> with one of {', '.join(ENDINGS)}"
        raise SourceError("no_truth", f"{folder} has no mesh in the layout of {protocol}, {layout}")
    return meshes


def load_true(path: Path) -> Mesh:
    """All triangles of a file. Raises: SourceError("bad_truth") if it has none."""
    import trimesh

    try:
        loaded = trimesh.load_mesh(path, process=False)
        vertices, faces = np.array(loaded.vertices, np.float32), np.array(loaded.faces, np.int64)
    except Exception as error:
        raise SourceError("bad_truth", f"{path} cannot be read: {error!r}") from error
    if not len(faces) or not np.isfinite(vertices).all():
        raise SourceError("bad_truth", f"{path} has {len(faces)} triangles, or a vertex that is not finite")
    return Mesh(vertices, faces, np.full_like(vertices, 0.5))


def measured(
    protocol: Protocol, made: Mesh, true: Mesh, generator: torch.Generator, points: int = POINTS
) -> dict[str, float]:
    """The MEASURES of one mesh. Raises: NumericsError if a mesh has no extent."""
    ours, theirs = (samples(mesh, points, generator) for mesh in (made, true))
    pose = aligned(ours, theirs, axis_rotations())
    ours = moved(ours, pose)
    scores = apart(ours, theirs, None)
    if protocol == "sa3dao":
        return {"chamfer": scores.chamfer, "f1_001": scores.f1, "voxel_iou": volume_iou(_voxels(ours), _voxels(theirs))}
    corners = [2 * shape.vertices[shape.faces].astype(np.float64) for shape in (unit_box(made), unit_box(true))]
    corners[0] = moved(corners[0], pose)
    # The longest sides of these corners are 2, and 1 is wanted. `occupancy` takes the cube from -0.5 to 0.5 for ours.
    filled = [occupancy(triangles / 4, CELLS) for triangles in corners]
    return {"chamfer": scores.chamfer / 2, "volume_iou": volume_iou(*filled)}


def summed(protocol: Protocol, rows: Sequence[Mapping[str, str | float]], seed: int) -> dict[str, Summary]:
    """The MEASURES over objects, of which each is a row."""
    return {
        name: summary(torch.tensor([float(row[name]) for row in rows]), torch.Generator().manual_seed(seed))
        for name in MEASURES[protocol]
    }


def _voxels(points: Float[np.ndarray, "N 3"]) -> np.ndarray:
    """The cells in which a point lies, from -2 to 2."""
    wide = 2 * CELLS
    cells = np.zeros((wide,) * 3, bool)
    cells[tuple(((points + 2) / 4 * wide).astype(np.int64).clip(0, wide - 1).T)] = True
    return cells

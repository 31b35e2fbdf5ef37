"""mesh: the surface of a field, or the check of a mesh that a backend has made.

Source: marching cubes, Lewiner et al. 2003 (scikit-image); small components are dropped, as threestudio's mesh exporter
does.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d.errors import NumericsError
from anything3d.settings.mesh import MeshConfig
from anything3d.space.field import Field, nodes
from anything3d.space.mesh import Mesh, components, signed_volumes

FRAME_TOLERANCE = 0.02  # canonical lengths


@torch.inference_mode()
def extract(field: Field, config: MeshConfig) -> list[Mesh | NumericsError]:
    """The outer surface of each object, or why it has none (on the CPU).

    The surface is a level set of the raw density, which varies more evenly than the density and so is placed better
    between two nodes. Where an object touches the cube's face it is closed just outside. Where no density reaches
    `config.threshold`, half the mass-weighted mean density takes its place. Cavities and specks are left out.

    The error is NumericsError("empty_surface"), or ("field_not_finite") for a field with a NaN or Inf.
    """
    grid = nodes(config.resolution, field.config.half).to(field.density_grid.device)
    points = grid.reshape(1, -1, 3).expand(len(field), -1, -1)
    volumes = field.raw_density(points).reshape(-1, *grid.shape[:3])
    densities = field.density(points)
    meshes: list[Mesh | NumericsError] = []
    for b in range(len(field)):
        try:
            level = field.raw_level(_surface_density(densities[b], config))
            vertices, faces = _march_cubes(volumes[b].cpu(), level, field.config.half, config.min_component_share)
        except NumericsError as error:
            meshes.append(error)
            continue
        _, colors = field.row(b).density_color(
            vertices[None].to(grid.device).clamp(-field.config.half, field.config.half)
        )
        meshes.append(Mesh(vertices, faces, colors[0].cpu()))
    return meshes


def surface(shape: Field | Mesh, config: MeshConfig) -> Mesh | NumericsError:
    """The mesh of one object, which is a field or a finished mesh, or why there is none (see `extract`, `checked`)."""
    return checked(shape) if isinstance(shape, Mesh) else extract(shape, config)[0]


def checked(mesh: Mesh) -> Mesh | NumericsError:
    """A finished mesh as it is, or why it is none of the canonical frame (camera.py). Nothing is repaired.

    The error is NumericsError("empty_surface") if it has no triangle. It is ("mesh_broken") if a triangle names a
    vertex that is not there, a coordinate is not finite, or a colour is outside 0 to 1. It is ("mesh_frame") if the
    bounding box does not have its centre at 0 and its longest side 1, within FRAME_TOLERANCE.
    """
    if not len(mesh.faces):
        return NumericsError("empty_surface", "the mesh that was given has no triangle")
    numbers = len(mesh.vertices)
    if not bool(((mesh.faces >= 0) & (mesh.faces < numbers)).all()):
        return NumericsError("mesh_broken", f"a triangle names a vertex beyond the {numbers} that the mesh has")
    if not bool(mesh.vertices.isfinite().all() and ((mesh.colors >= 0) & (mesh.colors <= 1)).all()):
        return NumericsError("mesh_broken", "a coordinate of the mesh is not finite, or a colour is outside 0 to 1")
    used = mesh.vertices[mesh.faces.flatten()]
    low, high = used.amin(0), used.amax(0)
    off_centre, longest = float(((low + high) / 2).abs().max()), float((high - low).max())
    if off_centre > FRAME_TOLERANCE or abs(longest - 1) > FRAME_TOLERANCE:
        return NumericsError(
            "mesh_frame",
            f"the bounding box of the mesh has its centre {off_centre:.3g} from 0 and its longest side is "
            f"{longest:.3g}; a backend has to give meshes with centre 0 and longest side 1, within {FRAME_TOLERANCE}",
        )
    return mesh


def _surface_density(density: Float[Tensor, "N"], config: MeshConfig) -> float:
    """The density at which one object's surface is cut."""
    highest = float(density.max())  # NaN if there is one
    if not math.isfinite(highest):
        raise NumericsError("field_not_finite", f"the highest density is {highest}; reconstruct the object again")
    if highest > config.threshold:
        return config.threshold
    automatic = float(density.square().sum() / density.sum().clamp_min(1e-9)) / 2
    if automatic < config.min_density:
        raise NumericsError(
            "empty_surface",
            f"densities end at {highest:.3g}, under {config.threshold} (mesh.threshold); the level would be half "
            f"their mass-weighted mean, {automatic:.3g}, and needs at least {config.min_density} (mesh.min_density)",
        )
    return automatic


def _march_cubes(
    raw: Float[Tensor, "R R R"], level: float, half: float, min_share: float
) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
    """Vertices and outward faces of the level set, without cavities and without components of few faces."""
    from skimage.measure import marching_cubes

    outside = min(float(raw.min()), level - 1)
    padded = nn.functional.pad(raw, (1,) * 6, value=outside)
    surface = marching_cubes(padded.numpy(), level, gradient_direction="descent", allow_degenerate=False)
    spacing = 2 * half / (len(raw) - 1)
    vertices = torch.from_numpy(surface[0].copy()).flip(-1).sub(1).mul(spacing).sub(half)
    faces = torch.from_numpy(surface[1].astype(np.int64))

    labels = components(faces, len(vertices))
    counts = labels.bincount()
    volumes = torch.zeros(len(counts), dtype=torch.float64)
    volumes.index_add_(0, labels, signed_volumes(vertices, faces))
    counts = counts.where(volumes > 0, 0)  # a component that looks inwards is the wall of a cavity
    if not counts.any():
        raise NumericsError("empty_surface", f"the level set {level:.3g} of the raw density encloses nothing")
    wanted = counts >= min(max(1, min_share * len(faces)), int(counts.max()))
    faces = faces[wanted[labels]]
    used, faces = faces.unique(return_inverse=True)
    return vertices[used].float(), faces

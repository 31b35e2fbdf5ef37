"""mesh: the surface of a field, or the check of a mesh that a backend has made.

Source: marching cubes, Lewiner et al. 2003 (scikit-image); small components are dropped, as threestudio's mesh exporter
does. This file imports no torch.
"""

import numpy as np
from jaxtyping import Float, Int

from anything3d.errors import NumericsError
from anything3d.settings.mesh import MeshConfig
from anything3d.settings.reconstruct import FieldConfig
from anything3d.space.grids import Grids
from anything3d.space.mesh import Mesh, components, signed_volumes

FRAME_TOLERANCE = 0.02  # canonical lengths


def extract(grids: Grids, config: MeshConfig) -> Mesh | NumericsError:
    """The outer surface of one object, or why it has none.

    The surface is a level set of the raw density, which varies more evenly than the density and so is placed better
    between two nodes. Where an object touches the cube's face it is closed just outside. Where no density reaches
    `config.threshold`, half the mass-weighted mean density takes its place. Cavities and specks are left out.

    The error is NumericsError("empty_surface"), or ("field_not_finite") for a field with a NaN or Inf.
    """
    raw = resampled(grids.density[0], config.resolution)
    try:
        level = grids.config.raw_level(_surface_density(raw, grids.config, config))
        vertices, faces = _march_cubes(raw, level, grids.config.half, config.min_component_share)
    except NumericsError as error:
        return error
    return Mesh(vertices, faces, colors_at(grids, vertices))


def surface(shape: Grids | Mesh, config: MeshConfig) -> Mesh | NumericsError:
    """The mesh of one object, which is a field or a finished mesh, or why there is none (see `extract`, `checked`)."""
    return checked(shape) if isinstance(shape, Mesh) else extract(shape, config)


def checked(mesh: Mesh) -> Mesh | NumericsError:
    """A finished mesh as it is, or why it is none of the canonical frame (camera.py). Nothing is repaired.

    The error is NumericsError("empty_surface") if it has no triangle. It is ("mesh_broken") if a triangle names a
    vertex that is not there, a coordinate is not finite, or a colour is outside 0 to 1. It is ("mesh_frame") if the
    bounding box does not have its centre at 0 and its longest side 1, within FRAME_TOLERANCE.
    """
    if not len(mesh.faces):
        return NumericsError("empty_surface", "the mesh that was given has no triangle")
    numbers = len(mesh.vertices)
    if not ((mesh.faces >= 0) & (mesh.faces < numbers)).all():
        return NumericsError("mesh_broken", f"a triangle names a vertex beyond the {numbers} that the mesh has")
    if not (np.isfinite(mesh.vertices).all() and ((mesh.colors >= 0) & (mesh.colors <= 1)).all()):
        return NumericsError("mesh_broken", "a coordinate of the mesh is not finite, or a colour is outside 0 to 1")
    used = mesh.vertices[mesh.faces.ravel()]
    low, high = used.min(axis=0), used.max(axis=0)
    off_centre, longest = float(np.abs((low + high) / 2).max()), float((high - low).max())
    if off_centre > FRAME_TOLERANCE or abs(longest - 1) > FRAME_TOLERANCE:
        return NumericsError(
            "mesh_frame",
            f"the bounding box of the mesh has its centre {off_centre:.3g} from 0 and its longest side is "
            f"{longest:.3g}; a backend has to give meshes with centre 0 and longest side 1, within {FRAME_TOLERANCE}",
        )
    return mesh


def resampled(raw: Float[np.ndarray, "R R R"], resolution: int) -> Float[np.ndarray, "N N N"]:
    """The raw density at the nodes of another grid over the same cube, interpolated trilinearly."""
    from scipy.ndimage import zoom

    return raw if len(raw) == resolution else zoom(raw, resolution / len(raw), order=1, mode="nearest")


def colors_at(grids: Grids, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V C"]:
    """The field's colours at these points; outside the cube, those of the nearest face."""
    from scipy.ndimage import map_coordinates
    from scipy.special import expit

    nodes = (vertices[:, ::-1].T / grids.config.half + 1) * ((grids.density.shape[-1] - 1) / 2)  # z, y, x
    raw = np.stack([map_coordinates(grid, nodes, order=1, mode="nearest") for grid in grids.color], axis=1)
    return raw if grids.latent else expit(raw)


def _surface_density(raw: Float[np.ndarray, "R R R"], field: FieldConfig, config: MeshConfig) -> float:
    """The density at which one object's surface is cut."""
    if not np.isfinite(raw).all():
        raise NumericsError("field_not_finite", "the raw density has a NaN or Inf; reconstruct the object again")
    density = field.density_scale * np.logaddexp(0, raw.astype(np.float64) + field.density_bias)
    highest = float(density.max())
    if highest > config.threshold:
        return config.threshold
    automatic = float(np.square(density).sum() / max(density.sum(), 1e-9)) / 2
    if automatic < config.min_density:
        raise NumericsError(
            "empty_surface",
            f"densities end at {highest:.3g}, under {config.threshold} (mesh.threshold); the level would be half "
            f"their mass-weighted mean, {automatic:.3g}, and needs at least {config.min_density} (mesh.min_density)",
        )
    return automatic


def _march_cubes(
    raw: Float[np.ndarray, "R R R"], level: float, half: float, min_share: float
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """Vertices and outward faces of the level set, without cavities and without components of few faces."""
    from skimage.measure import marching_cubes

    padded = np.pad(raw, 1, constant_values=min(float(raw.min()), level - 1))
    corners, faces, _, _ = marching_cubes(padded, level, gradient_direction="descent", allow_degenerate=False)
    vertices = (corners[:, ::-1] - 1) * (2 * half / (len(raw) - 1)) - half
    faces = faces.astype(np.int64)

    labels = components(faces, len(vertices))
    counts = np.bincount(labels)
    volumes = np.bincount(labels, signed_volumes(vertices, faces))
    counts[volumes <= 0] = 0  # a component that looks inwards is the wall of a cavity
    if not counts.any():
        raise NumericsError("empty_surface", f"the level set {level:.3g} of the raw density encloses nothing")
    wanted = counts >= min(max(1, min_share * len(faces)), counts.max())
    used, faces = np.unique(faces[wanted[labels]], return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)

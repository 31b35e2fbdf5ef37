"""mesh: the surface of a field, or what becomes of a mesh that a backend has made.

Source: marching cubes, Lewiner et al. 2003 (scikit-image); small components are dropped, as threestudio's mesh exporter
does. This file imports no torch.
"""

import numpy as np
from jaxtyping import Float, Int

from anything3d.errors import NumericsError
from anything3d.settings.mesh import MeshConfig
from anything3d.space.atlas import textured
from anything3d.space.grids import Grids
from anything3d.space.mesh import Mesh, components, signed_volumes, vertex_normals
from anything3d.space.outline import fit_outline
from anything3d.space.paint import Sight, seen_colors, with_photo
from anything3d.space.palette import recolor_of
from anything3d.space.repaint import painter_of
from anything3d.space.simplify import simplified
from anything3d.space.solid import solidity

EMPTY = "no line through the field meets mesh.silhouette, the opacity of a silhouette; the field is empty or fog"
FRAME_TOLERANCE = 0.02  # canonical lengths


def extract(grids: Grids, config: MeshConfig, sight: Sight | None = None) -> Mesh | NumericsError:
    """The outer surface of one object, or why it has none.

    The surface is that of the solid that cameras outside see (solid.py). Where an object touches the cube's face it is
    closed just outside. Specks are left out. The surface is moved so that its outline is near that of the photo's mask
    (outline.py). The colours are what a camera in front of the surface sees, and those of the photo where `sight` shows
    them (paint.py). Other colours move to those that the photo shows anywhere of the object (palette.py). A photo whose
    mask the object does not cover moves nothing and colours no place, as then the object or the reference camera is
    wrong.

    The error is NumericsError("empty_surface"), or ("field_not_finite") for a field with a NaN or Inf.
    """
    half = grids.config.half
    raw = resampled(grids.density[0], config.resolution)
    if not np.isfinite(raw).all():
        return NumericsError("field_not_finite", "the raw density has a NaN or Inf; reconstruct the object again")
    solid = solidity(grids.activated(raw), 2 * half / (len(raw) - 1), config.surface, config.silhouette)
    try:
        vertices, faces = _march_cubes(solid, half, config.min_component_share)
    except NumericsError as error:
        return error
    vertices, faces = simplified(vertices, faces, config.max_faces)
    fit = None if sight is None else fit_outline(vertices, faces, sight, config.fit, config.min_cover)
    recolor = None if sight is None or not config.palette else recolor_of(sight, config.palette)

    def paint(points: Float[np.ndarray, "N 3"], normals: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        colors = seen_colors(grids, points, normals)
        colors = colors if recolor is None else recolor(colors)
        if sight is None or fit is None:
            return colors
        return with_photo(colors, points, normals, solid, half, sight, fit(points))

    texture = textured(vertices, faces, config.texture_px, paint) if config.texture_px else None
    colors = paint(vertices, vertex_normals(vertices, faces))
    return Mesh(vertices if fit is None else fit(vertices), faces, colors, texture)


def surface(shape: Grids | Mesh, config: MeshConfig, sight: Sight | None = None) -> Mesh | NumericsError:
    """The mesh of one object, which is a field or a finished mesh, or why there is none (see `extract`, `limited`)."""
    return limited(shape, config) if isinstance(shape, Mesh) else extract(shape, config, sight)


def limited(mesh: Mesh, config: MeshConfig) -> Mesh | NumericsError:
    """A finished mesh with about `max_faces` triangles and a texture, or why it is none (see `checked`).

    A mesh within the limit keeps a texture of its own, whatever its size. One that has more triangles is simplified,
    and gets a new texture with the colours of the mesh that was given. So does a mesh with vertex colours. Vertices in
    the same place become one for this.
    """
    sound = checked(mesh)
    within = not 0 < config.max_faces < len(mesh.faces)
    if isinstance(sound, NumericsError) or (within and (mesh.texture is not None or not config.texture_px)):
        return sound
    places, number = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces: Int[np.ndarray, "F 3"] = number.reshape(-1)[mesh.faces]
    apart = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    if not apart.any():
        return mesh
    vertices, faces = simplified(places, faces[apart], config.max_faces)
    paint = painter_of(mesh)
    texture = textured(vertices, faces, config.texture_px, paint) if config.texture_px else None
    colors = paint(vertices, vertex_normals(vertices, faces)).astype(np.float32)
    return Mesh(vertices, faces, colors, texture)


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


def _march_cubes(
    solid: Float[np.ndarray, "N N N"], half: float, min_share: float
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """Vertices and outward faces where `solid` is 0, without cavities and without components of few faces."""
    from skimage.measure import marching_cubes

    if not (solid > 0).any():
        raise NumericsError("empty_surface", EMPTY)
    padded = np.pad(solid, 1, constant_values=min(float(solid.min()), -1))
    corners, faces, _, _ = marching_cubes(padded, 0, gradient_direction="descent", allow_degenerate=False)
    vertices = (corners[:, ::-1] - 1) * np.float32(2 * half / (len(solid) - 1)) - np.float32(half)
    faces = faces.astype(np.int64)

    labels = components(faces, len(vertices))
    counts = np.bincount(labels)
    volumes = np.bincount(labels, signed_volumes(vertices, faces))
    counts[volumes <= 0] = 0  # a component that looks inwards is the wall of a cavity
    if not counts.any():
        raise NumericsError("empty_surface", EMPTY)
    wanted = counts >= min(max(1, min_share * len(faces)), counts.max())
    used, faces = np.unique(faces[wanted[labels]], return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)

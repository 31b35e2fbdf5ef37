"""Meshes in the canonical frame (camera.py), facts about them, and GLB, the format in which they are stored.

Meshes are arrays and not tensors, so that the stage `mesh` works without torch.
"""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from anything3d.errors import InputError

if TYPE_CHECKING:
    from trimesh import Trimesh

UP = (0.0, 1.0, 0.0)
OWN_COLOR = "_color"  # the name of an attribute that is not glTF's must begin with _


@dataclass(frozen=True, slots=True)
class Mesh:
    """One object's triangles, counter-clockwise seen from outside, in the canonical frame; RGB in [0, 1] (sRGB)."""

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    colors: Float[np.ndarray, "V 3"]


@dataclass(frozen=True, slots=True)
class MeshFacts:
    """What can be said of a mesh without looking at it."""

    vertices: int
    faces: int
    components: int  # connected through shared vertices
    watertight: bool  # every edge belongs to two faces


def facts(mesh: Mesh) -> MeshFacts:
    """Counts and soundness of one mesh."""
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, uses = np.unique(edges[:, 0] * len(mesh.vertices) + edges[:, 1], return_counts=True)
    return MeshFacts(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        components=int(components(mesh.faces, len(mesh.vertices)).max()) + 1,
        watertight=bool((uses == 2).all()),
    )


def to_glb(mesh: Mesh) -> bytes:
    """Binary glTF 2.0 (y up, front +z, as in the canonical frame): normals, and vertex colours on a matte material.

    Without normals a viewer shades every triangle alone (specification 3.7.2.1).

    glTF wants linear vertex colours (specification 3.7.2.1), so the sRGB values are decoded. Colours are rounded to 16
    bits, of which one sRGB level of 255 is 20 steps at least; vertices to float32. Equal meshes give equal bytes.
    """
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    paint = TextureVisuals(material=PBRMaterial(name="matte", metallicFactor=0.0, roughnessFactor=1.0))
    body = _trimesh(mesh, paint)
    body.vertex_attributes[OWN_COLOR] = _to_rgba(_decode_srgb(mesh.colors), np.uint16)
    return bytes(body.export(file_type="glb", tree_postprocessor=_name_color))


def from_glb(data: bytes) -> Mesh:
    """The mesh of `to_glb`, or any other with linear vertex colours of 8 or 16 bits or in floats.

    Raises: InputError("bad_glb") if there is no single coloured mesh in `data`.
    """
    import trimesh

    try:
        (loaded,) = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False).geometry.values()
        rgba = loaded.visual.vertex_attributes["color"]
        vertices, faces = np.array(loaded.vertices, np.float32), np.array(loaded.faces, np.int64)
        highest = 1 if rgba.dtype.kind == "f" else np.iinfo(rgba.dtype).max
        linear = np.array(rgba[:, :3], np.float32) / highest
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError("bad_glb", f"{len(data)} bytes are not one coloured mesh: {error!r}") from error
    return Mesh(vertices, faces, _encode_srgb(linear))


def components(faces: Int[np.ndarray, "F 3"], n_vertices: int) -> Int[np.ndarray, "F"]:
    """Number of the connected component of each face, from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), np.uint8), (edges[:, 0], edges[:, 1])), shape=(n_vertices, n_vertices))
    _, labels = connected_components(graph, directed=False)
    return labels[faces[:, 0]].astype(np.int64)


def vertex_normals(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V 3"]:
    """The outward direction at each vertex: the mean of its faces', weighted by area. A lone vertex looks up."""
    a, b, c = np.moveaxis(vertices.astype(np.float64)[faces], 1, 0)
    doubled = np.cross(b - a, c - a)
    summed = np.stack([np.bincount(faces.ravel(), axis.repeat(3), len(vertices)) for axis in doubled.T], axis=1)
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.where(length > 0, summed / np.where(length > 0, length, 1), UP).astype(np.float32)


def signed_volumes(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "F"]:
    """Volume of the tetrahedron between the origin and each face, positive where the face looks away from it."""
    a, b, c = np.moveaxis(vertices.astype(np.float64)[faces], 1, 0)
    return (a * np.cross(b, c)).sum(-1) / 6


def _trimesh(mesh: Mesh, paint: object) -> "Trimesh":
    import trimesh

    normals = vertex_normals(mesh.vertices, mesh.faces)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=normals, visual=paint, process=False)


def _decode_srgb(colors: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Linear light of sRGB values. Source: IEC 61966-2-1."""
    colors = colors.astype(np.float64)
    return np.where(colors <= 0.04045, colors / 12.92, ((np.maximum(colors, 0) + 0.055) / 1.055) ** 2.4)


def _encode_srgb(linear: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    linear = linear.astype(np.float64)
    colors = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return colors.astype(np.float32)


def _to_rgba(colors: Float[np.ndarray, "N 3"], depth: type[np.unsignedinteger]) -> np.ndarray:
    """Opaque colours as integers of a depth, [N, 4]."""
    highest = np.iinfo(depth).max
    rgb = np.round(colors.astype(np.float64).clip(0, 1) * highest)
    return np.pad(rgb, ((0, 0), (0, 1)), constant_values=highest).astype(depth)


def _name_color(tree: dict[str, Any]) -> None:
    """Make the attribute of our own the mesh's colour: trimesh itself writes 8 bits only."""
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    attributes["COLOR_0"] = attributes.pop(OWN_COLOR)
    tree["accessors"][attributes["COLOR_0"]]["normalized"] = True

"""Meshes in the canonical frame (camera.py), facts about them, and GLB, the format in which they are stored."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d.errors import InputError

if TYPE_CHECKING:
    from trimesh import Trimesh

OWN_COLOR = "_color"  # the name of an attribute that is not glTF's must begin with _


@dataclass(frozen=True, slots=True)
class Mesh:
    """One object's triangles, counter-clockwise seen from outside, in the canonical frame; RGB in [0, 1] (sRGB)."""

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    colors: Float[Tensor, "V 3"]


@dataclass(frozen=True, slots=True)
class MeshFacts:
    """What can be said of a mesh without looking at it."""

    vertices: int
    faces: int
    components: int  # connected through shared vertices
    watertight: bool  # every edge belongs to two faces


def facts(mesh: Mesh) -> MeshFacts:
    """Counts and soundness of one mesh."""
    edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=1).values
    _, uses = edges.unique(dim=0, return_counts=True)
    return MeshFacts(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        components=int(components(mesh.faces, len(mesh.vertices)).max()) + 1,
        watertight=bool((uses == 2).all()),
    )


def to_glb(mesh: Mesh) -> bytes:
    """Binary glTF 2.0 (y up, front +z, as in the canonical frame): vertex colours on a matte material.

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
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces), _encode_srgb(torch.from_numpy(linear)))


def components(faces: Int[Tensor, "F 3"], n_vertices: int) -> Int[Tensor, "F"]:
    """Number of the connected component of each face, from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2).numpy()
    graph = coo_array((np.ones(len(edges), np.uint8), (edges[:, 0], edges[:, 1])), shape=(n_vertices, n_vertices))
    _, labels = connected_components(graph, directed=False)
    return torch.from_numpy(labels).long()[faces[:, 0]]


def signed_volumes(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "F"]:
    """Volume of the tetrahedron between the origin and each face, positive where the face looks away from it."""
    a, b, c = vertices.double()[faces].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum(-1) / 6


def _trimesh(mesh: Mesh, paint: object) -> "Trimesh":
    import trimesh

    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), visual=paint, process=False)


def _decode_srgb(colors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Linear light of sRGB values. Source: IEC 61966-2-1."""
    return torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def _encode_srgb(linear: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _to_rgba(colors: Float[Tensor, "N 3"], depth: type[np.unsignedinteger]) -> np.ndarray:
    """Opaque colours as integers of a depth, [N, 4]."""
    highest = np.iinfo(depth).max
    rgb = (colors.double().clamp(0, 1) * highest).round()
    return nn.functional.pad(rgb, (0, 1), value=highest).numpy().astype(depth)


def _name_color(tree: dict[str, Any]) -> None:
    """Make the attribute of our own the mesh's colour: trimesh itself writes 8 bits only."""
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    attributes["COLOR_0"] = attributes.pop(OWN_COLOR)
    tree["accessors"][attributes["COLOR_0"]]["normalized"] = True

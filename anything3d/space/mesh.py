"""Meshes in the canonical frame (camera.py), facts about them, and GLB, the format in which they are stored.

Meshes are arrays and not tensors, so that the stage `mesh` works without torch.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8

from anything3d.errors import InputError, NumericsError
from anything3d.space.gltf import pack

UP = (0.0, 1.0, 0.0)
JPEG_QUALITY = 95  # of 100


@dataclass(frozen=True, slots=True)
class Texture:
    """A picture that colours a surface."""

    corners: Float[np.ndarray, "F 3 2"]  # x, y of every triangle's corners; fractions from the picture's top left
    image: UInt8[np.ndarray, "H W 3"]  # sRGB


@dataclass(frozen=True, slots=True)
class Mesh:
    """One object's triangles, counter-clockwise seen from outside, in the canonical frame; RGB in [0, 1] (sRGB)."""

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    colors: Float[np.ndarray, "V 3"]
    texture: Texture | None = None  # finer colours, of which `colors` are those at the vertices


@dataclass(frozen=True, slots=True)
class MeshFacts:
    """What can be said of a mesh without looking at it."""

    vertices: int
    faces: int
    components: int  # connected through shared vertices
    watertight: bool  # every edge belongs to two faces


def facts(mesh: Mesh) -> MeshFacts:
    """Counts and soundness of one mesh."""
    return MeshFacts(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        components=int(components(mesh.faces, len(mesh.vertices)).max()) + 1,
        watertight=is_watertight(mesh.faces),
    )


def is_watertight(faces: Int[np.ndarray, "F 3"]) -> bool:
    """Whether every edge belongs to two faces."""
    edges = np.sort(faces.astype(np.int64)[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, uses = np.unique(edges[:, 0] * (int(faces.max(initial=0)) + 1) + edges[:, 1], return_counts=True)
    return bool((uses == 2).all())


def to_glb(mesh: Mesh) -> bytes:
    """Binary glTF 2.0 (y up, front +z, as in the canonical frame): normals, and colours on a matte material.

    Without normals a viewer shades every triangle alone (specification 3.7.2.1). A texture is stored as JPEG, in sRGB
    (3.9.2). Its file has no vertex colours, as viewers would multiply both. A vertex with several places in the texture
    is written once for each.

    Without a texture, glTF wants linear vertex colours (3.7.2.1), so the sRGB values are decoded. They are written as
    float32, as trimesh reads 16 bits wrongly, and 8 bits of linear light are too few. Coordinates are float32. Equal
    meshes give equal bytes.
    """
    normals = vertex_normals(mesh.vertices, mesh.faces)
    positions = mesh.vertices.astype(np.float32)
    if mesh.texture is None:
        colors = decode_srgb(mesh.colors).clip(0, 1).astype(np.float32)
        return pack({"POSITION": positions, "NORMAL": normals, "COLOR_0": colors}, mesh.faces)
    places = mesh.texture.corners.reshape(-1, 2).astype(np.float32)
    at_corner = np.column_stack([mesh.faces.reshape(-1), places.astype(np.float64)])
    _, corner, triangles = np.unique(at_corner, axis=0, return_index=True, return_inverse=True)
    vertex = mesh.faces.reshape(-1)[corner]
    attributes = {"POSITION": positions[vertex], "NORMAL": normals[vertex], "TEXCOORD_0": places[corner]}
    return pack(attributes, triangles.reshape(-1, 3), to_jpeg(mesh.texture.image))


def to_jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture as JPEG, with the colours of every pixel."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def from_glb(data: bytes) -> Mesh:
    """The mesh of `to_glb`, or any other with a base colour texture, or with linear vertex colours of any depth.

    Vertices of a textured mesh are joined if they lie in the same place. Its vertex colours are those of the texture.

    Raises: InputError("bad_glb") if there is no single coloured mesh in `data`.
    """
    import trimesh

    try:
        (loaded,) = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False).geometry.values()
        vertices, faces = np.array(loaded.vertices, np.float32), np.array(loaded.faces, np.int64)
        if "color" not in loaded.visual.vertex_attributes:
            picture = np.array(loaded.visual.material.baseColorTexture.convert("RGB"))
            places = np.array(loaded.visual.uv, np.float32)
            places[:, 1] = 1 - places[:, 1]  # trimesh counts from the bottom
            return _joined(vertices, faces, Texture(places[faces], picture))
        rgba = loaded.visual.vertex_attributes["color"]
        highest = 1 if rgba.dtype.kind == "f" else np.iinfo(rgba.dtype).max
        linear = np.array(rgba[:, :3], np.float32) / highest
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        raise InputError("bad_glb", f"{len(data)} bytes are not one coloured mesh: {error!r}") from error
    return Mesh(vertices, faces, encode_srgb(linear))


def _joined(vertices: Float[np.ndarray, "W 3"], faces: Int[np.ndarray, "F 3"], texture: Texture) -> Mesh:
    """A textured mesh in which every place has one vertex, in the order of their first ones."""
    _, first, same = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    joined = number[same.reshape(-1)][faces]
    height, width = texture.image.shape[:2]
    column, row = np.moveaxis(np.floor(texture.corners * [width, height]).astype(int), -1, 0)
    seen = texture.image[row.clip(0, height - 1), column.clip(0, width - 1)].reshape(-1, 3)
    corner = joined.reshape(-1)
    counts = np.bincount(corner, minlength=len(order)).clip(1)
    colors = np.stack([np.bincount(corner, band, len(order)) for band in seen.T], axis=1) / (255 * counts[:, None])
    return Mesh(vertices[first[order]], joined, colors.astype(np.float32), texture)


def components(faces: Int[np.ndarray, "F 3"], n_vertices: int) -> Int[np.ndarray, "F"]:
    """Number of the connected component of each face, from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), np.uint8), (edges[:, 0], edges[:, 1])), shape=(n_vertices, n_vertices))
    _, labels = connected_components(graph, directed=False)
    return labels[faces[:, 0]].astype(np.int64)


def unit_box(mesh: Mesh) -> Mesh:
    """Moved and scaled so that its bounding box is centred at 0 and has longest side 1.

    Raises: NumericsError if it has no extent.
    """
    used = mesh.vertices[mesh.faces.reshape(-1)]
    low, high = used.min(0), used.max(0)
    longest = float((high - low).max())
    if not 0 < longest < np.inf:
        raise NumericsError("points_without_extent", f"the mesh has a bounding box with the longest side {longest}")
    return replace(mesh, vertices=((mesh.vertices - (low + high) / 2) / longest).astype(np.float32))


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


def decode_srgb(colors: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Linear light of sRGB values. Source: IEC 61966-2-1."""
    colors = colors.astype(np.float64)
    return np.where(colors <= 0.04045, colors / 12.92, ((np.maximum(colors, 0) + 0.055) / 1.055) ** 2.4)


def encode_srgb(linear: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    linear = linear.astype(np.float64)
    colors = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return colors.astype(np.float32)

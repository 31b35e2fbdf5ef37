"""The mesh that a command has written, a GLB or PLY of anybody, in the canonical frame. This file imports no torch.

The texture of a single mesh is kept as it is. All other colours become those of the vertices: a vertex takes the colour
of its texture where it lies in it.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from anything3d.errors import InputError
from anything3d.space.mesh import Mesh, Texture, decode_srgb, encode_srgb

KINDS = (".glb", ".ply")
MAX_BYTES = 1 << 30  # of a file
MAX_FACES = 4_000_000  # of a mesh: one for every pixel of a picture of 2,000 px
DAMAGE = (  # what trimesh and Pillow raise on it
    ArithmeticError,
    AttributeError,
    Image.DecompressionBombError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
SEAM = 0.1  # colours of one place, in sRGB, that differ by less are one: both sides of a seam of the texture


def read_mesh(path: Path) -> Mesh:
    """The mesh in a file, moved to centre 0 and scaled to longest side 1, its own axes kept.

    All meshes of a GLB's scene become one, where its nodes put them. Colours are its vertices' (linear in a GLB, sRGB
    in a PLY), its base colour texture's and its base colour factor's, multiplied as glTF says. A mesh without any is
    white. Opacity, metal and roughness are left out. A texture is kept if it is the only colour of the only mesh, and
    does not repeat.

    Raises: InputError("external_bad_output") if there is no such mesh.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise _bad(f"{path.name} is no {' or '.join(KINDS)}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise _bad(f"{path.name} has {size} bytes; at most {MAX_BYTES} are read")
    data = path.read_bytes()
    try:
        parts = [_part(one, moved, kind) for one, moved in _meshes(data, kind[1:])]
    except DAMAGE as error:
        raise _bad(f"{path.name} cannot be read: {type(error).__name__}: {str(error)[:200]}") from error
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    if not parts:
        raise _bad(f"{path.name} has no triangle; clouds and splats are no meshes")
    whole = Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, starts[:-1], strict=True)]),
        np.concatenate([part.colors for part in parts]),
        parts[0].texture if len(parts) == 1 else None,
    )
    if len(whole.faces) > MAX_FACES:
        raise _bad(f"{path.name} has {len(whole.faces)} triangles; at most {MAX_FACES} are taken")
    if whole.faces.min() < 0 or whole.faces.max() >= len(whole.vertices):
        raise _bad(f"{path.name}: a triangle names a vertex beyond the {len(whole.vertices)} that there are")
    return _welded(_framed(whole, path.name))


def _meshes(data: bytes, kind: str) -> list[tuple[Any, Float[np.ndarray, "4 4"]]]:
    """The meshes of a file, and where its nodes put them. No other file is read, whatever this one names."""
    import trimesh

    scene = trimesh.load_scene(io.BytesIO(data), file_type=kind, process=False)
    placed = (
        (scene.geometry[name], moved) for moved, name in (scene.graph[node] for node in scene.graph.nodes_geometry)
    )
    return [(one, moved) for one, moved in placed if isinstance(one, trimesh.Trimesh) and len(one.faces)]


def _part(one: Any, moved: Float[np.ndarray, "4 4"], kind: str) -> Mesh:  # noqa: ANN401 - a Trimesh
    """One mesh of the file, moved, with a colour at every vertex."""
    vertices = np.array(one.vertices, np.float64) @ moved[:3, :3].T + moved[:3, 3]
    faces, visual = np.array(one.faces, np.int64), one.visual
    if np.linalg.det(moved[:3, :3]) < 0:  # mirrored
        faces = faces[:, ::-1]
    if visual.kind in ("vertex", "face"):
        rgb = _levels(visual.vertex_colors)
        return Mesh(vertices, faces, encode_srgb(rgb) if kind == ".glb" else rgb.astype(np.float32))
    linear = np.ones((len(vertices), 3))
    if (colors := visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None) is not None:
        linear *= _levels(colors)
    material = getattr(visual, "material", None)
    if (factor := getattr(material, "baseColorFactor", None)) is not None:
        linear *= _levels(np.atleast_2d(factor))
    texture, uv = getattr(material, "baseColorTexture", None), getattr(visual, "uv", None)
    if texture is not None and uv is not None and len(uv) == len(vertices):
        picture, places = np.array(texture.convert("RGB")), np.array(uv[:, :2], np.float64)
        alone = bool((linear == 1).all() and ((places >= 0) & (places <= 1)).all())
        colors = encode_srgb(linear * decode_srgb(texels(picture, places)))
        corners = np.stack([places[:, 0], 1 - places[:, 1]], axis=1).astype(np.float32)[faces]
        return Mesh(vertices, faces, colors, Texture(corners, picture) if alone else None)
    return Mesh(vertices, faces, encode_srgb(linear))


def texels(picture: UInt8[np.ndarray, "H W 3"], uv: Float[np.ndarray, "V 2"]) -> Float[np.ndarray, "V 3"]:
    """Colours at places of a texture, 0 to 1, bilinear; v grows upwards from the picture's lower edge, and both repeat.

    Source: OpenGL 4.6, section 8.14.3.
    """
    height, width = picture.shape[:2]
    across, down = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    x, y = np.floor(across).astype(np.int64), np.floor(down).astype(np.int64)
    right, below = (across - x)[:, None], (down - y)[:, None]
    rows, columns = (y % height, (y + 1) % height), (x % width, (x + 1) % width)
    upper, lower = (picture[row, columns[0]] * (1 - right) + picture[row, columns[1]] * right for row in rows)
    return (upper * (1 - below) + lower * below) / 255


def _levels(colors: Any) -> Float[np.ndarray, "N 3"]:  # noqa: ANN401 - an array of any type
    """Red, green and blue as numbers from 0 to 1."""
    numbers = np.asarray(colors)
    highest = 1.0 if numbers.dtype.kind == "f" else float(np.iinfo(numbers.dtype).max)
    return np.clip(numbers[:, :3].astype(np.float64) / highest, 0, 1)


def _framed(mesh: Mesh, name: str) -> Mesh:
    """Its triangles in the canonical frame."""
    used = mesh.vertices[mesh.faces.ravel()]
    low, high = used.min(axis=0), used.max(axis=0)
    longest = float((high - low).max())
    if not np.isfinite(longest) or longest <= 0:
        raise _bad(f"{name}: the longest side of its bounding box is {longest}")
    kept = np.unique(mesh.faces)
    number = np.zeros(len(mesh.vertices), np.int64)
    number[kept] = np.arange(len(kept))
    vertices = ((mesh.vertices[kept] - (low + high) / 2) / longest).astype(np.float32)
    return Mesh(vertices, number[mesh.faces], mesh.colors[kept], mesh.texture)


def _welded(mesh: Mesh) -> Mesh:
    """The same surface, in which vertices of one place and nearly one colour are one: a texture cuts it along seams.

    Where the texture is kept, its colours do not depend on the vertices, and all of one place are one.
    """
    _, place, counts = np.unique(mesh.vertices, axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    low, high = np.full((len(counts), 3), np.inf), np.full((len(counts), 3), -np.inf)
    np.minimum.at(low, place, mesh.colors)
    np.maximum.at(high, place, mesh.colors)
    alike = ((high - low) <= SEAM).all(axis=1) | (mesh.texture is not None)
    group = np.where(alike[place], place, len(counts) + np.arange(len(place)))
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    faces: Int[np.ndarray, "F 3"] = number.reshape(-1)[mesh.faces]
    apart = (faces != np.roll(faces, 1, axis=1)).all(axis=1)  # a triangle of no area may lose a corner
    if not apart.any():
        return mesh
    texture = mesh.texture and Texture(mesh.texture.corners[apart], mesh.texture.image)
    return Mesh(mesh.vertices[first], faces[apart], mesh.colors[first], texture)


def _bad(message: str) -> InputError:
    return InputError("external_bad_output", message)

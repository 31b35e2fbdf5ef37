"""Textures: a surface is cut into flat pieces, and each piece is painted in one picture, the atlas.

Between the pieces lie gutters. They have the colours of the nearest piece, so that a viewer which mixes neighbouring
texels, or makes the picture smaller, mixes no other colour in.

Source: xatlas, Young 2018, for the pieces and their places. This file imports no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int, UInt8

from anything3d.space.mesh import Texture, vertex_normals

GUTTER = 3  # texels between two pieces, for xatlas
AT_ONCE = 1 << 16  # texels that are painted at a time; about 100 MB
MAX_PAIRS = 1 << 22  # (triangle, texel) pairs that are tested at a time; about 0.5 GB

# Colours of points of a surface with these outward normals.
Painter = Callable[[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]], Float[np.ndarray, "N 3"]]


@dataclass(frozen=True, slots=True)
class Texels:
    """The texels whose centres lie on a triangle. A texel of two triangles is that of the first."""

    row: Int[np.ndarray, "P"]
    column: Int[np.ndarray, "P"]
    face: Int[np.ndarray, "P"]
    weights: Float[np.ndarray, "P 3"]  # barycentric

    def on(self, faces: Int[np.ndarray, "F 3"], values: Float[np.ndarray, "V C"]) -> Float[np.ndarray, "P C"]:
        """What the vertices have, interpolated."""
        return np.einsum("pk,pkc->pc", self.weights, values[faces[self.face]])


def textured(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], size: int, paint: Painter) -> Texture:
    """A picture of `size` by `size` texels for this surface."""
    corners = unwrapped(vertices, faces, size)
    texels = texels_of(corners, size)
    points = texels.on(faces, vertices.astype(np.float32))
    normals = texels.on(faces, vertex_normals(vertices, faces))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
    image = np.zeros((size, size, 3), np.uint8)
    for start in range(0, len(points), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        colors = paint(points[some], normals[some])
        image[texels.row[some], texels.column[some]] = np.round(colors.clip(0, 1) * 255)
    return Texture(corners, with_gutters(image, texels))


def unwrapped(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], size: int
) -> Float[np.ndarray, "F 3 2"]:
    """Where the corners of every triangle lie in one square picture of about this size. Pieces do not overlap."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, GUTTER, True
    atlas.generate(xatlas.ChartOptions(), packing)
    _, triangles, places = atlas[0]
    return places[triangles].astype(np.float32)


def texels_of(corners: Float[np.ndarray, "F 3 2"], size: int) -> Texels:
    """The texels of each triangle, whose corners are fractions of the picture's side."""
    parts = corners.astype(np.float64) * size
    first = np.ceil(parts.min(1) - 0.5).clip(0, size).astype(np.int64)  # the first texel whose centre is not left of it
    last = np.floor(parts.max(1) - 0.5).clip(-1, size - 1).astype(np.int64)
    extent = (last - first + 1).clip(0)
    bounds = np.append(np.flatnonzero(np.diff(extent.prod(1).cumsum() // MAX_PAIRS, prepend=-1)), len(parts))
    found = [_covered(np.arange(start, stop), parts, first, extent) for start, stop in pairwise(bounds)]
    row, column, face, weights = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    _, unique = np.unique(row * size + column, return_index=True)
    return Texels(row[unique], column[unique], face[unique], weights[unique].astype(np.float32))


def with_gutters(image: UInt8[np.ndarray, "T T 3"], texels: Texels) -> UInt8[np.ndarray, "T T 3"]:
    """Every texel that shows no surface has the colour of the nearest one that does."""
    from scipy.ndimage import distance_transform_edt

    empty = np.ones(image.shape[:2], bool)
    empty[texels.row, texels.column] = False
    if empty.all():
        return image
    rows, columns = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return image[rows, columns]


def _covered(
    faces: Int[np.ndarray, "f"],
    parts: Float[np.ndarray, "F 3 2"],
    first: Int[np.ndarray, "F 2"],
    extent: Int[np.ndarray, "F 2"],
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"], Int[np.ndarray, "P"], Float[np.ndarray, "P 3"]]:
    """Row, column, triangle and barycentric coordinates of the texels of these triangles (Pineda 1988)."""
    pairs = extent[faces].prod(1)
    face = faces.repeat(pairs)
    within = np.arange(len(face)) - (pairs.cumsum() - pairs).repeat(pairs)
    column = first[face, 0] + within % extent[face, 0]
    row = first[face, 1] + within // extent[face, 0]
    a, b, c = np.moveaxis(parts[face] - np.stack([column, row], 1)[:, None] - 0.5, 1, 0)
    areas = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], 1)
    whole = areas.sum(1)
    weights = areas / np.where(whole == 0, 1, whole)[:, None]
    inside = (weights >= 0).all(1) & (whole != 0)
    return row[inside], column[inside], face[inside], weights[inside]


def _cross(a: Float[np.ndarray, "P 2"], b: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P"]:
    """Twice the signed area of the triangle between the origin, `a` and `b`."""
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

"""The colours of one surface on another one that lies nearly where it does: a simplified one, or the same one.

Collapses of edges do not keep a texture. So every point of the new surface takes the colour of the nearest point of the
old one. A triangle that looks the other way counts as farther away, so that the two sides of a wall do not mix. This
file imports no torch.
"""

import numpy as np
from jaxtyping import Float, Int

from anything3d.space.atlas import Painter
from anything3d.space.mesh import Mesh, Texture

SPREAD = 200_000  # points of the old surface, evenly spread, beside one in each of its triangles
AT_ONCE = 1 << 14  # points that are coloured at a time, with 2 NEAREST triangles each; about 100 MB
NEAREST = 3  # of these points, and as many of those that look the same way, whose triangles are looked at
AWAY = 0.02  # canonical lengths by which a triangle that looks the other way counts as farther away


def painter_of(mesh: Mesh) -> Painter:
    """What colours points with normals as the nearest points of `mesh`."""
    from scipy.spatial import cKDTree
    from trimesh.triangles import closest_point

    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    outwards = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    doubled = np.linalg.norm(outwards, axis=1)
    places, owner = _spread(corners, doubled)
    ways = outwards / doubled.clip(1e-30)[:, None] * (AWAY / 2)
    plain, facing = cKDTree(places), cKDTree(np.hstack([places, ways[owner]]))

    def paint(points: Float[np.ndarray, "N 3"], normals: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        starts = range(0, len(points), AT_ONCE)
        return np.concatenate([some(points[at : at + AT_ONCE], normals[at : at + AT_ONCE]) for at in starts])

    def some(points: Float[np.ndarray, "N 3"], normals: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        _, near = plain.query(points, NEAREST)
        _, alike = facing.query(np.hstack([points, normals * (AWAY / 2)]), NEAREST)
        faces = owner[np.hstack([near, alike]).reshape(-1)]
        own = points.astype(np.float64).repeat(2 * NEAREST, axis=0)
        there = closest_point(corners[faces], own)
        away = (outwards[faces] * normals.repeat(2 * NEAREST, axis=0)).sum(1) < 0
        far = (np.linalg.norm(there - own, axis=1) + AWAY * away).reshape(-1, 2 * NEAREST)
        best = np.arange(0, far.size, 2 * NEAREST) + far.argmin(1)
        return _colors(mesh, faces[best], _shares(corners[faces[best]], there[best]))

    return paint


def _spread(
    corners: Float[np.ndarray, "F 3 3"], areas: Float[np.ndarray, "F"]
) -> tuple[Float[np.ndarray, "P 3"], Int[np.ndarray, "P"]]:
    """The middle of every triangle and SPREAD points by area, and their triangles."""
    total = areas.cumsum()
    chosen = np.searchsorted(total, (np.arange(SPREAD) + 0.5) / SPREAD * total[-1]).clip(0, len(areas) - 1)
    a, b = np.random.default_rng(0).random((2, SPREAD))
    root = np.sqrt(a)
    shares = np.stack([1 - root, root * (1 - b), root * b], axis=1)
    points = np.einsum("pk,pkc->pc", shares, corners[chosen])
    return np.concatenate([corners.mean(1), points]), np.concatenate([np.arange(len(areas)), chosen])


def _shares(corners: Float[np.ndarray, "N 3 3"], points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """The barycentric coordinates of points in their triangles. A triangle without area has its first corner."""
    a, b, c = np.moveaxis(corners - points[:, None], 1, 0)
    opposite = np.stack([np.linalg.norm(np.cross(*edge), axis=1) for edge in ((b, c), (c, a), (a, b))], axis=1)
    whole = opposite.sum(1, keepdims=True)
    return np.where(whole > 0, opposite / np.where(whole > 0, whole, 1), [1.0, 0.0, 0.0])


def _colors(mesh: Mesh, faces: Int[np.ndarray, "N"], shares: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """What the mesh shows in these triangles, at these shares of their corners."""
    if mesh.texture is None:
        return np.einsum("nk,nkc->nc", shares, mesh.colors[mesh.faces[faces]])
    return _texels(mesh.texture, np.einsum("nk,nkc->nc", shares, mesh.texture.corners[faces]))


def _texels(texture: Texture, places: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    """The colours of the picture, mixed bilinearly."""
    from scipy.ndimage import map_coordinates

    height, width = texture.image.shape[:2]
    nodes = (places * [width, height] - 0.5).T[::-1]
    bands = np.moveaxis(texture.image, -1, 0).astype(np.float32)
    return np.stack([map_coordinates(band, nodes, order=1, mode="nearest") for band in bands], axis=1) / 255

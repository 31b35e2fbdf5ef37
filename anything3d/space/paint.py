"""The colours of a surface: what a camera in front of it sees of the field, and what the photo shows of it.

The field's colour at the surface itself is wrong. Distillation changes a field's colours where rays gather them, and
that is below the surface. So every vertex is looked at from outside, along its normal, as rendering does it. Where the
photo shows the surface well, its own pixels take the place of the field's colours.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from anything3d.space.grids import Grids
from anything3d.space.viewpoint import ReferenceCamera

BEFORE, BEHIND = 1.0, 2.0  # a look at the surface begins so far in front of it and ends so far behind it, in voxels
LOOKS = 8  # samples between them
GRAZING, FACING = 0.2, 0.5  # cosine between normal and line of sight, from which and up to which the photo gains weight
OPAQUE = 127  # alpha of what belongs to the mask is higher
RIM_PX = (1.0, 3.0)  # distance from the mask's edge, likewise: pixels at the edge are mixed with what lies behind
CLEARANCE = 2.0  # nodes of the solid in front of a vertex that do not hide it: they are of its own surface


@dataclass(frozen=True, slots=True)
class Sight:
    """What the photo shows of one object."""

    rgba: UInt8[np.ndarray, "S S 4"]  # the crop; alpha is the mask
    camera: ReferenceCamera  # from where the crop sees the object
    unseen: UInt8[np.ndarray, "S S"] | None = None  # of 255: share of a pixel in which the object may go on


def seen_colors(
    grids: Grids, vertices: Float[np.ndarray, "V 3"], normals: Float[np.ndarray, "V 3"]
) -> Float[np.ndarray, "V C"]:
    """The expected colour along a short ray into the surface, against the normal (NeRF, equation 3, as a mean)."""
    voxel = 2 * grids.config.half / (grids.density.shape[-1] - 1)
    along, step = np.linspace(-BEFORE, BEHIND, LOOKS, dtype=np.float32, retstep=True)
    points = (vertices[:, None] - normals[:, None] * (voxel * along)[:, None]).reshape(-1, 3)
    depth = grids.activated(grids.sampled(grids.density, points)[:, 0]).reshape(-1, LOOKS) * np.float32(step * voxel)
    weights = np.exp(depth - depth.cumsum(1)) * -np.expm1(-depth) + np.float32(1e-6)  # the mean where all is clear
    weights /= weights.sum(1, keepdims=True)
    colors = grids.painted(grids.sampled(grids.color, points)).reshape(-1, LOOKS, len(grids.color))
    return np.einsum("vs,vsc->vc", weights, colors)


def with_photo(
    colors: Float[np.ndarray, "V 3"],
    vertices: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    solid: Float[np.ndarray, "N N N"],
    half: float,
    sight: Sight,
    fitted: Float[np.ndarray, "V 3"],
) -> Float[np.ndarray, "V 3"]:
    """These colours, and the crop's own where the reference camera sees a vertex in the mask and from in front.

    `solid` is positive inside the object (solid.py), over the cube [-half, half]^3. It hides what lies behind it.
    `fitted` says where the vertices are in the photo, if its mask has moved them (outline.py).
    """
    from scipy.ndimage import map_coordinates

    size = len(sight.rgba)
    uv = sight.camera.project(fitted)[:, ::-1].T * size - 0.5  # row, column
    towards = sight.camera.eye - vertices
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    rim = map_coordinates(to_edge(sight), uv, order=1, mode="constant")
    weight = _rise((towards * normals).sum(1), GRAZING, FACING) * inside_share(rim)

    shown = np.flatnonzero(weight)
    weight[shown[_hidden(vertices[shown], towards[shown], solid, half)]] = 0
    pixels = [
        map_coordinates(band / np.float32(255), uv, order=1, mode="nearest")
        for band in np.moveaxis(sight.rgba[..., :3], -1, 0)
    ]
    return colors + weight[:, None] * (np.stack(pixels, axis=1) - colors)


def to_edge(sight: Sight) -> Float[np.ndarray, "S S"]:
    """The distance of each pixel of the mask from the mask's edge, in pixels; 0 outside."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(np.pad(sight.rgba[..., 3] > OPAQUE, 1))[1:-1, 1:-1]


def inside_share(rim: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """How much a colour of the photo counts, 0 to 1, at this distance from the mask's edge (RIM_PX)."""
    return _rise(rim, *RIM_PX)


def _hidden(
    vertices: Float[np.ndarray, "V 3"],
    towards: Float[np.ndarray, "V 3"],
    solid: Float[np.ndarray, "N N N"],
    half: float,
) -> Bool[np.ndarray, "V"]:
    """Whether something solid lies between each vertex and the camera in this direction."""
    cells = len(solid) - 1
    start = (vertices / half + 1) * (cells / 2)  # in nodes: x, y, z
    hidden, open_ = np.zeros(len(vertices), bool), np.arange(len(vertices))
    for distance in np.arange(CLEARANCE, 2 * len(solid)):
        node = np.rint(start[open_] + distance * towards[open_]).astype(int)
        inside = ((node >= 0) & (node <= cells)).all(1)
        open_, node = open_[inside], node[inside]
        met = solid[node[:, 2], node[:, 1], node[:, 0]] > 0
        hidden[open_[met]] = True
        open_ = open_[~met]
        if not len(open_):
            break
    return hidden


def _rise(x: Float[np.ndarray, "*V"], low: float, high: float) -> Float[np.ndarray, "*V"]:
    """From 0 at `low` to 1 at `high`, with even slopes at both ends."""
    share = ((x - low) / (high - low)).clip(0, 1)
    return share * share * (3 - 2 * share)

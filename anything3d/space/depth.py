"""What a sparse cloud looks like from a camera: hard discs in a z-buffer, and the hint that is made of their depth.

Source: Anything-3D and 3DFuse render the depth of a cloud with a rasteriser of hard discs. The nearest disc wins. Their
radius is 0.02 in coordinates from -1 to 1, which is 0.01 of the image side here. Inverse depth is then scaled for each
view.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d.space.camera import Camera, project
from anything3d.space.cloud import Cloud

INDEX_BITS = 31  # of a z-buffer key; above them the 31 bits of a positive float, which sort as an integer does
EMPTY = torch.iinfo(torch.int64).max


def splat(
    cloud: Cloud, camera: Camera, size: int, radius: float
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B 3 H W"], Float[Tensor, "B H W"]]:
    """Depth (inf where empty), colour (0 where empty) and alpha (0 or 1) of cloud b seen by camera b, `size` px square.

    A point covers the pixels whose centre is nearer than `radius` (fraction of the image side, whatever the distance)
    to its projection, with its own depth; the nearest point wins. Points behind the camera or with a NaN cover none.
    Equal depths go to the lower row of the cloud. No gradient flows to points or camera; it does to colours.
    """
    where, depth = project(camera, cloud.points.detach().float())
    keys = _zbuffer(where * size, depth, size, radius * size)
    hit = keys != EMPTY
    nearest = torch.where(hit, keys & (2**INDEX_BITS - 1), 0)
    nearest_depth = depth.gather(1, nearest)
    color = torch.where(hit[..., None], cloud.colors.gather(1, nearest[..., None].expand(-1, -1, 3)), 0.0)
    image = (len(depth), size, size)
    return (
        torch.where(hit, nearest_depth, torch.inf).view(image),
        color.transpose(1, 2).reshape(len(depth), 3, size, size),
        hit.to(nearest_depth.dtype).view(image),
    )


def depth_hint(depth: Float[Tensor, "B H W"]) -> Float[Tensor, "B 3 H W"]:
    """The hint of a depth ControlNet: inverse depth scaled per view, nearest 1, farthest visible and background 0.

    `depth` is inf where empty. A view whose visible pixels all have one depth gets 1 there (0 / 0 in the source); a
    view without any is 0.

    Source: 3DFuse render_depth_from_cloud; three equal channels.
    """
    visible = depth.isfinite()
    inverse = 1 / depth
    near = inverse.amax((1, 2), keepdim=True)
    far = torch.where(visible, inverse, torch.inf).amin((1, 2), keepdim=True)
    span = near - far
    scaled = torch.where(span > 0, (inverse - far) / torch.where(span > 0, span, 1), 1.0)
    return torch.where(visible, scaled, 0.0)[:, None].expand(-1, 3, -1, -1)


def _zbuffer(
    where_px: Float[Tensor, "B N 2"], depth: Float[Tensor, "B N"], size: int, radius_px: float
) -> Int[Tensor, "B P"]:
    """For each pixel the smallest (depth, row) of the points over it as one integer, EMPTY where there is none.

    One minimum settles depth and colour together, so the result has no race and needs no sort.
    """
    n_views, n_points = depth.shape
    sound = (depth > 0) & depth.isfinite() & where_px.isfinite().all(-1)
    column, row = torch.where(sound[..., None], where_px, -1.0e6).clamp(-1.0e6, 1.0e6).unbind(-1)
    rank = torch.where(sound, depth, 1.0).view(torch.int32).long() << INDEX_BITS
    rank = rank + torch.arange(n_points, device=depth.device)
    reach = math.ceil(radius_px)  # pixels to each side of the one that holds the projection
    steps = torch.arange(-reach, reach + 1, device=depth.device)
    x = column.floor().long()[..., None] + steps
    across = (x + 0.5 - column[..., None]) ** 2
    buffer = torch.full((n_views, size * size + 1), EMPTY, device=depth.device)  # the last pixel takes what is outside
    for step in range(
        -reach, reach + 1
    ):  # line by line: a full window at once would take (2 reach + 1) times the memory
        y = (row.floor().long() + step)[..., None]
        covered = across + (y + 0.5 - row[..., None]) ** 2 < radius_px**2
        covered &= (x >= 0) & (x < size) & (y >= 0) & (y < size)
        pixel = torch.where(covered, y * size + x, size * size)
        buffer.scatter_reduce_(1, pixel.flatten(1), rank[..., None].expand_as(pixel).flatten(1), "amin")
    return buffer[:, :-1]

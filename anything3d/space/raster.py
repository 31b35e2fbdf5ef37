"""Rasterization: what cameras see of a mesh, by a z-buffer. It runs on the cameras' device and has no gradient.

Every pixel is cut into SUBPIXELS^2 parts. A part shows the nearest triangle that covers its centre. Colours lie evenly
between a triangle's corners in space (perspective-correct), and nothing shades them: they are the object's own.

Source: Pineda 1988 (edge functions); the depth along a triangle as in OpenGL 4.6, section 14.6.1.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anything3d.space.camera import Camera, project
from anything3d.space.mesh import Mesh
from anything3d.space.render import NEAR, Rendering

SUBPIXELS = 2  # along each side of a pixel; silhouettes then have five opacities, like a multisampled picture
MAX_PAIRS = 1 << 22  # (triangle, part of a pixel) pairs that are tested at a time; about 0.5 GB
NOTHING = 2**62  # the number of no triangle


@torch.inference_mode()
def rasterize(mesh: Mesh, camera: Camera, size: int) -> Rendering:
    """Square images of `size` pixels, one for each of the V cameras; both sides of a triangle are seen.

    A triangle with a corner closer than NEAR to a camera, or behind it, is not drawn there.
    """
    seen = torch.stack([_pixels(mesh, camera[v : v + 1], size) for v in range(len(camera))])
    color, share, summed = seen[:, :3], seen[:, 3], seen[:, 4]
    return Rendering(
        color=color,  # premultiplied: parts that show nothing are 0
        alpha=share,
        depth=torch.where(share > 0, summed / share.clamp_min(1e-9), torch.inf),
    )


def _pixels(mesh: Mesh, camera: Camera, size: int) -> Float[Tensor, "5 S S"]:
    """Colour, opacity, and depth times opacity, of one camera's pixels: the means of their parts."""
    color, alpha, depth = _one(mesh, camera, size * SUBPIXELS)
    return nn.functional.avg_pool2d(torch.cat([color, alpha[None], (depth * alpha)[None]]), SUBPIXELS)


def _one(
    mesh: Mesh, camera: Camera, size: int
) -> tuple[Float[Tensor, "3 S S"], Float[Tensor, "S S"], Float[Tensor, "S S"]]:
    """Colour, opacity (0 or 1) and depth of every part, seen from one camera; 0 where there is no triangle."""
    arrays = (mesh.vertices, mesh.faces)
    vertices, triangles = (torch.from_numpy(array).to(camera.pose.device) for array in arrays)
    where, depth = (value[0] for value in project(camera, vertices[None]))
    corners, depths = (where * size)[triangles], depth[triangles]  # [F 3 2] in parts, [F 3]
    low, high = corners.amin(1), corners.amax(1)
    first = (low - 0.5).ceil().clamp(min=0, max=size).long()  # the first part whose centre is not left of it
    last = (high - 0.5).floor().clamp(min=-1, max=size - 1).long()
    extent = (last - first + 1).clamp_min(0) * (depths.amin(1) > NEAR)[:, None]
    pairs = extent.prod(1)

    nearest = depth.new_full((size * size,), torch.inf)
    winner = torch.full((size * size,), NOTHING, device=depth.device)
    shares = depth.new_zeros(size * size, 3)
    for faces in _chunks(pairs):
        face, part, weights, inside = _cover(faces, pairs, first, extent, corners, size)
        face, part, weights = face[inside], part[inside], weights[inside]
        inverse = weights / depths[face]  # perspective: what is linear on the screen is 1 / depth
        distance = 1 / inverse.sum(1)
        before = nearest.clone()
        nearest.scatter_reduce_(0, part, distance, "amin")
        hit = distance == nearest[part]
        closer = nearest < before
        winner[closer] = NOTHING
        winner.scatter_reduce_(0, part[hit], face[hit], "amin")  # of equally near ones the first
        drawn = hit & (winner[part] == face)
        shares[part[drawn]] = inverse[drawn] * distance[drawn, None]

    covered = winner < NOTHING
    color = _colors(mesh, winner.where(covered, 0), shares) * covered[:, None]
    image = (size, size)
    return color.T.reshape(3, *image), covered.float().reshape(image), nearest.where(covered, 0.0).reshape(image)


def _colors(mesh: Mesh, face: Int[Tensor, "P"], shares: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
    """What the mesh shows in these triangles, at these shares of their corners. Texels are mixed bilinearly."""
    if mesh.texture is None:
        of_corners = torch.from_numpy(mesh.colors[mesh.faces])
        return (shares[..., None] * of_corners.to(face.device)[face]).sum(1)
    where = (shares[..., None] * torch.from_numpy(mesh.texture.corners).to(face.device)[face]).sum(1)
    image = torch.from_numpy(mesh.texture.image).to(face.device).permute(2, 0, 1)[None] / 255
    seen = nn.functional.grid_sample(image, (2 * where - 1)[None, None], padding_mode="border", align_corners=False)
    return seen[0, :, 0].T


def _chunks(pairs: Int[Tensor, "F"]) -> list[Tensor]:
    """Numbers of triangles, about MAX_PAIRS pairs at a time, without the triangles that cover no centre."""
    drawn = pairs.nonzero()[:, 0]
    total = pairs[drawn].cumsum(0)
    bins = torch.div(total - 1, MAX_PAIRS, rounding_mode="floor")
    _, counts = bins.unique_consecutive(return_counts=True)
    return list(drawn.split(counts.tolist()))


def _cover(
    faces: Int[Tensor, "f"],
    pairs: Int[Tensor, "F"],
    first: Int[Tensor, "F 2"],
    extent: Int[Tensor, "F 2"],
    corners: Float[Tensor, "F 3 2"],
    size: int,
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"], Float[Tensor, "P 3"], Bool[Tensor, "P"]]:
    """The pairs of these triangles: triangle, part, barycentric coordinates on the screen, whether it is inside."""
    face = faces.repeat_interleave(pairs[faces])
    start = pairs[faces].cumsum(0) - pairs[faces]
    within = torch.arange(len(face), device=face.device) - start.repeat_interleave(pairs[faces])
    x = first[face, 0] + within % extent[face, 0]
    y = first[face, 1] + torch.div(within, extent[face, 0], rounding_mode="floor")
    a, b, c = corners[face].unbind(1)
    point = torch.stack([x, y], 1) + 0.5
    areas = torch.stack([_cross(b - point, c - point), _cross(c - point, a - point), _cross(a - point, b - point)], 1)
    whole = _cross(b - a, c - a)
    weights = areas / torch.where(whole == 0, 1, whole)[:, None]
    return face, y * size + x, weights, (weights >= 0).all(1) & (whole != 0)


def _cross(a: Float[Tensor, "P 2"], b: Float[Tensor, "P 2"]) -> Float[Tensor, "P"]:
    """Twice the signed area of the triangle between the origin, `a` and `b`."""
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

"""Pictures of scenes, and what every pixel shows.

Labels, parts and depth belong to the ray through the centre of a pixel. Colours and alpha of pixels at edges are means
of four rays. Surfaces are Lambertian, under a sun with cast shadows and an ambient light from above.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d.mini.backdrop import Sky, meet_plane, paint
from anything3d.mini.scene import Light, Placed, Scene, turn
from anything3d.mini.shapes import Object
from anything3d.mini.solids import nearest_piece, normals
from anything3d.mini.trace import light_share, sample_surface, trace
from anything3d.space.camera import Camera, rays

FINE = 2  # rays along each side of a pixel at an edge
DEPTH_EDGE = 0.03  # relative jump of the distance between neighbours, on one part, that makes an edge
FROM_BELOW = 0.6  # share of the ambient light that a surface facing down gets


@dataclass(frozen=True, slots=True)
class Photo:
    """V pictures of a scene with K objects."""

    rgb: Float[Tensor, "V 3 H W"]  # in [0, 1], straight
    alpha: Float[Tensor, "V H W"]  # 1 unless there is nothing behind the objects
    depth: Float[Tensor, "V H W"]  # along -z of the camera, in the scene's units; infinite where there is no surface
    label: Int[Tensor, "V H W"]  # k + 1 for object k, 0 for everything else
    part: Int[Tensor, "V H W"]  # of the object; elsewhere the index of the plane, or the number of planes for the sky
    silhouettes: Bool[Tensor, "V K H W"]  # of each object as if it were alone


@dataclass(frozen=True, slots=True)
class Seen:
    """The same for N rays; `reach` is the distance along the ray."""

    rgb: Float[Tensor, "3 N"]
    reach: Float[Tensor, "N"]
    label: Int[Tensor, "N"]
    part: Int[Tensor, "N"]
    silhouettes: Bool[Tensor, "K N"]


@torch.inference_mode()
def render_scene(scene: Scene, height: int, width: int) -> Photo:
    """The scene's own camera's picture (V = 1); width / height must be the aspect that the scene was sampled for."""
    return render(scene, scene.camera, height, width)


@torch.inference_mode()
def render_objects(
    objects: Sequence[Object], lights: Sequence[Light], camera: Camera, size: int
) -> tuple[Float[Tensor, "BV 4 S S"], Float[Tensor, "BV S S"]]:
    """Each of B objects alone, from its own V cameras (rows of `camera`, object by object).

    Lights and cameras are in the canonical frames. Gives RGBA in [0, 1] with straight alpha, and the depth in canonical
    units, infinite beside the object.
    """
    views = len(camera) // len(objects)
    photos = [
        render(alone(item, light, camera), camera[row * views : (row + 1) * views], size, size)
        for row, (item, light) in enumerate(zip(objects, lights, strict=True))
    ]
    rgba = torch.cat([torch.cat([photo.rgb, photo.alpha[:, None]], dim=1) for photo in photos])
    return rgba, torch.cat([photo.depth for photo in photos])


def alone(item: Object, light: Light, camera: Camera) -> Scene:
    """The object in its canonical frame and nothing else."""
    return Scene((Placed(item, (0.0, 0.0, 0.0), 0.0, 1.0),), (), None, light, camera[:1])


@torch.inference_mode()
def sample_points(
    item: Object, light: Light, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Points on an object's surface and their colours in this light (canonical frame), as `render_objects` has them."""
    points = sample_surface(item.body, count, generator)
    scene = Scene((Placed(item, (0.0, 0.0, 0.0), 0.0, 1.0),), (), None, light, _NOWHERE)
    colors = _albedo(item, points) * _brightness(scene, points, normals(item.body, points))
    return points.T.contiguous(), colors.clamp(0, 1).T.contiguous()


_NOWHERE = Camera(torch.eye(4)[None], torch.tensor([[1.0, 1.0, 0.5, 0.5]]))  # where no picture is taken


def render(scene: Scene, camera: Camera, height: int, width: int) -> Photo:
    """The scene from V cameras."""
    pixel = float(1 / (camera.intrinsics[:, 1] * height).max())  # radians
    origins, directions = rays(camera, height, width)
    seen = _look(scene, origins.reshape(-1, 3).T.contiguous(), directions.reshape(-1, 3).T.contiguous(), pixel)
    shape = (len(camera), height, width)
    backward = camera.pose[:, None, None, :3, 2]
    depth = seen.reach.view(shape) * -(directions * backward).sum(-1)
    label, part = seen.label.view(shape), seen.part.view(shape)
    rgb = seen.rgb.view(3, *shape).transpose(0, 1).contiguous()
    alpha = ((label > 0) | bool(scene.planes or scene.sky)).float()
    edges = _edges(label, part, seen.reach.view(shape))
    rgb.movedim(1, -1)[edges], alpha[edges] = _smooth(scene, camera, edges, pixel)
    return Photo(rgb, alpha, depth, label, part, seen.silhouettes.view(-1, *shape).transpose(0, 1))


def _edges(
    label: Int[Tensor, "V H W"], part: Int[Tensor, "V H W"], reach: Float[Tensor, "V H W"]
) -> Bool[Tensor, "V H W"]:
    """Pixels that differ from one of their four neighbours in label or part, or much in distance on one object."""
    surface = label * 64 + part
    near = torch.where(label > 0, reach, torch.ones_like(reach))
    edges = torch.zeros_like(label, dtype=torch.bool)
    for axis in (1, 2):
        n = label.shape[axis] - 1
        jump = near.narrow(axis, 0, n) / near.narrow(axis, 1, n)
        differs = surface.narrow(axis, 0, n) != surface.narrow(axis, 1, n)
        differs |= (jump > 1 + DEPTH_EDGE) | (jump < 1 / (1 + DEPTH_EDGE))
        edges.narrow(axis, 0, n).logical_or_(differs)
        edges.narrow(axis, 1, n).logical_or_(differs)
    return edges


def _smooth(
    scene: Scene, camera: Camera, edges: Bool[Tensor, "V H W"], pixel: float
) -> tuple[Float[Tensor, "E 3"], Float[Tensor, "E"]]:
    """Colour and alpha of the edge pixels, each the mean over a grid of rays."""
    height, width = edges.shape[1:]
    fine = [
        values.unflatten(2, (width, FINE)).unflatten(1, (height, FINE)).transpose(2, 3)[edges].reshape(-1, 3).T
        for values in rays(camera, height * FINE, width * FINE)
    ]
    seen = _look(scene, fine[0].contiguous(), fine[1].contiguous(), pixel / FINE)
    solid = ((seen.label > 0) | bool(scene.planes or scene.sky)).float().view(-1, FINE**2)
    total = solid.sum(1)
    rgb = (seen.rgb.view(3, -1, FINE**2) * solid).sum(2) / total.clamp(min=1)
    return rgb.T, total / FINE**2


def _look(scene: Scene, origins: Float[Tensor, "3 N"], directions: Float[Tensor, "3 N"], pixel: float) -> Seen:
    """What each ray meets first; `pixel` is the angle between rays in radians."""
    reach = torch.full_like(origins[0], torch.inf)
    label = torch.zeros_like(reach, dtype=torch.long)
    part = torch.full_like(label, len(scene.planes))
    for index, plane in enumerate(scene.planes):
        there = meet_plane(plane, origins, directions)
        part = torch.where(there < reach, index, part)
        reach = torch.minimum(reach, there)
    silhouettes = []
    for index, placed in enumerate(scene.objects):
        from_object = placed.to_canonical(origins), turn(directions, -placed.yaw_deg)
        there = trace(placed.item.body, *from_object) * placed.scale
        label = torch.where(there < reach, index + 1, label)
        reach = torch.minimum(reach, there)
        silhouettes.append(there.isfinite())
    rgb = _sky(scene.sky, directions)
    for index in range(len(scene.planes)):
        rows = ((label == 0) & (part == index)).nonzero()[:, 0]
        rgb[:, rows] = _plane_color(scene, index, origins[:, rows], directions[:, rows], reach[rows], pixel)
    for index, placed in enumerate(scene.objects):
        rows = (label == index + 1).nonzero()[:, 0]
        points = origins[:, rows] + reach[rows] * directions[:, rows]
        own = placed.to_canonical(points)
        part[rows] = nearest_piece(placed.item.body, own)
        facing = turn(normals(placed.item.body, own), placed.yaw_deg)
        rgb[:, rows] = _albedo(placed.item, own) * _brightness(scene, points, facing)
    none = torch.zeros(0, len(reach), dtype=torch.bool, device=reach.device)
    return Seen(rgb.clamp(0, 1), reach, label, part, torch.stack(silhouettes) if silhouettes else none)


def _sky(sky: Sky | None, directions: Float[Tensor, "3 N"]) -> Float[Tensor, "3 N"]:
    """Black where there is no sky."""
    if sky is None:
        return torch.zeros_like(directions)
    height = directions[1].clamp(min=0).sqrt()
    return torch.stack([a + (b - a) * height for a, b in zip(sky.horizon, sky.zenith, strict=True)])


def _plane_color(
    scene: Scene,
    index: int,
    origins: Float[Tensor, "3 N"],
    directions: Float[Tensor, "3 N"],
    reach: Float[Tensor, "N"],
    pixel: float,
) -> Float[Tensor, "3 N"]:
    """Pattern, light and haze of a plane where rays meet it after `reach`."""
    plane = scene.planes[index]
    points = origins + reach * directions
    normal = points.new_tensor(plane.normal)[:, None]
    slant = (directions * normal).sum(0).abs().clamp(min=1e-3)
    rgb = paint(plane, points, reach * pixel / slant) * _brightness(scene, points, normal.expand_as(points))
    if scene.sky is None:
        return rgb
    haze = reach / (reach + scene.sky.haze)
    return rgb + (points.new_tensor(scene.sky.horizon)[:, None] - rgb) * haze * haze


def _albedo(item: Object, points: Float[Tensor, "3 N"]) -> Float[Tensor, "3 N"]:
    return points.new_tensor(item.albedo)[nearest_piece(item.body, points)].T


def _brightness(scene: Scene, points: Float[Tensor, "3 N"], facing: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    """Light that a white surface with unit normals `facing` throws back."""
    light = scene.light
    lx, ly, lz = light.direction
    slope = (facing[0] * lx + facing[1] * ly + facing[2] * lz).clamp(min=0)
    lit = (slope > 0).nonzero()[:, 0]
    share = torch.ones_like(slope[lit])
    for placed in scene.objects:
        own = placed.to_canonical(points[:, lit])
        share = share * light_share(placed.item.body, own, light.turned(placed.yaw_deg).direction)
    slope[lit] *= share
    from_sky = (1 + FROM_BELOW) / 2 + (1 - FROM_BELOW) / 2 * facing[1]
    return light.ambient * from_sky + light.sun * slope

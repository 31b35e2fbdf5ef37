"""Random scenes: one to five objects close together on a textured ground, a sun, and a camera that looks at them.

The axes are those of camera.py. The ground is y = 0, and an object is about one unit long.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.mini.backdrop import (
    GROUND_PATTERNS,
    WALL_PATTERNS,
    Plane,
    Sky,
    Texture,
    sample_texture,
    soft_color,
)
from anything3d.mini.draw import chance, integer, uniform
from anything3d.mini.shapes import Object, sample_object
from anything3d.mini.solids import Vector
from anything3d.space.camera import Camera, orbit

Circle = tuple[float, float, float]  # x, z, radius: what an object occupies of the ground, world units

MAX_OBJECTS = 5
SCALE = (0.8, 1.25)  # longest side of an object, world units
GAP = (0.01, 0.15)  # between the circles that objects occupy on the ground, world units
TRIES = 3  # directions tried for each object; the one in which it comes nearest to the middle is taken
SEARCH_STEP = 0.04  # world units, when a free place is looked for
CAMERA_ELEVATION_DEG = (5.0, 55.0)
FOV_DEG = (46.0, 54.0)  # across the longer side of the photo
MIN_RADIUS = 0.95  # world units, of what the camera takes in: a lone object does not fill the photo
CLOSENESS = (0.78, 1.02)  # distance of the camera / the distance from which everything is surely in sight
SUN_AZIMUTH_DEG = (-85.0, 85.0)  # from the camera's
SUN_ELEVATION_DEG = (35.0, 70.0)
SUN = (0.42, 0.52)  # brightness of a white surface that faces it
AMBIENT = (0.56, 0.64)  # ... of one that faces the sky and lies in shadow
GROUND_BRIGHTNESS = (0.42, 0.72)
BACK_BRIGHTNESS = (0.60, 0.90)
WALL_SHARE = 0.5  # of the scenes; the others are open to the horizon
WALL_BEHIND = (0.3, 2.0)  # the objects, world units


@dataclass(frozen=True, slots=True)
class Light:
    """A sun and light from the whole sky."""

    direction: Vector  # unit length, towards the sun
    sun: float
    ambient: float

    def turned(self, yaw_deg: float) -> "Light":
        """Seen from an object that is turned by `yaw_deg`: in its canonical frame."""
        x, y, z = turn(torch.tensor(self.direction, dtype=torch.float64)[:, None], -yaw_deg)[:, 0].tolist()
        return Light((x, y, z), self.sun, self.ambient)


@dataclass(frozen=True, slots=True)
class Placed:
    """An object in a scene: canonical point p lies at turn(p, yaw) * scale + position."""

    item: Object
    position: Vector  # world units
    yaw_deg: float  # azimuth of its front
    scale: float  # world units per canonical unit

    def to_canonical(self, points: Float[Tensor, "3 N"]) -> Float[Tensor, "3 N"]:
        return turn(points - points.new_tensor(self.position)[:, None], -self.yaw_deg) / self.scale

    def seen_by(self, camera: Camera) -> Camera:
        """The same cameras in the canonical frame, at the distance in canonical units."""
        pose = camera.pose.clone()
        flat = pose[:, :3].permute(1, 0, 2).flatten(1)  # every column of every pose, as vectors
        pose[:, :3] = turn(flat, -self.yaw_deg).unflatten(1, (-1, 4)).permute(1, 0, 2)
        pose[:, :3, 3] = self.to_canonical(camera.pose[:, :3, 3].T).T
        return Camera(pose, camera.intrinsics)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a photo shows. Without planes and sky (None) the objects float in nothing."""

    objects: tuple[Placed, ...]
    planes: tuple[Plane, ...]  # the ground, perhaps a wall
    sky: Sky | None
    light: Light
    camera: Camera  # one


def turn(vectors: Float[Tensor, "3 N"], yaw_deg: float) -> Float[Tensor, "3 N"]:
    """Turned about y; +z goes to azimuth `yaw_deg`."""
    c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    x, y, z = vectors
    return torch.stack([c * x + s * z, y, c * z - s * x])


def sample_scene(generator: torch.Generator, held_out: bool, aspect: float = 1.0) -> Scene:
    """A random scene for a photo of `aspect` = width / height.

    Every pair of shape and colour is a training pair, unless `held_out`: then about half of them are pairs that no
    training scene has.
    """
    objects = _arrange(_sample_distinct(generator, integer(generator, 1, MAX_OBJECTS), held_out), generator)
    azimuth = uniform(generator, 0, 360)
    camera = _aim(objects, azimuth, aspect, generator)
    sun = orbit(
        torch.tensor([azimuth + uniform(generator, *SUN_AZIMUTH_DEG)]),
        torch.tensor([uniform(generator, *SUN_ELEVATION_DEG)]),
        torch.ones(1),
        torch.ones(1),
    )
    x, y, z = sun.pose[0, :3, 3].tolist()
    light = Light((x, y, z), uniform(generator, *SUN), uniform(generator, *AMBIENT))
    ground = sample_texture(generator, GROUND_PATTERNS, uniform(generator, *GROUND_BRIGHTNESS))
    planes = [Plane((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), ground)]
    brightness = uniform(generator, *BACK_BRIGHTNESS)
    if chance(generator, WALL_SHARE):
        texture = sample_texture(generator, WALL_PATTERNS, brightness)
        return Scene(objects, (*planes, _wall(objects, azimuth, texture, generator)), None, light, camera)
    sky = Sky(
        horizon=soft_color(generator, brightness),
        zenith=(0.45, 0.60 + uniform(generator, -0.1, 0.1), 0.80),
        haze=uniform(generator, 15, 40),
    )
    return Scene(objects, tuple(planes), sky, light, camera)


def _sample_distinct(generator: torch.Generator, count: int, held_out: bool) -> list[Object]:
    """Objects no two of which are of the same pair, so that a caption names one."""
    chosen: dict[tuple[str, str], Object] = {}
    while len(chosen) < count:
        item = sample_object(generator, held_out)
        chosen.setdefault((item.shape, item.color), item)
    return list(chosen.values())


def _arrange(items: list[Object], generator: torch.Generator) -> tuple[Placed, ...]:
    """Each object on the ground, as near to the middle as there is room in some random directions; then all centred."""
    places: list[Circle] = []
    scales = [uniform(generator, *SCALE) for _ in items]
    for item, scale in zip(items, scales, strict=True):
        radius, gap = item.body.girth * scale, uniform(generator, *GAP)
        angles = [uniform(generator, 0, 2 * math.pi) for _ in range(TRIES)]
        tried = [_free_place(places, angle, radius, gap) for angle in angles]
        places.append(min(tried, key=lambda circle: math.hypot(circle[0], circle[1])))
    middle_x = (min(x - r for x, _, r in places) + max(x + r for x, _, r in places)) / 2
    middle_z = (min(z - r for _, z, r in places) + max(z + r for _, z, r in places)) / 2
    return tuple(
        Placed(item, (x - middle_x, item.body.half[1] * scale, z - middle_z), uniform(generator, 0, 360), scale)
        for item, (x, z, _), scale in zip(items, places, scales, strict=True)
    )


def _free_place(taken: list[Circle], angle: float, radius: float, gap: float) -> Circle:
    """The circle in direction `angle` that is nearest to the origin and clear of all others."""
    away = 0.0
    while True:
        x, z = away * math.sin(angle), away * math.cos(angle)
        if all(math.hypot(x - other_x, z - other_z) >= radius + other + gap for other_x, other_z, other in taken):
            return x, z, radius
        away += SEARCH_STEP


def _aim(objects: tuple[Placed, ...], azimuth: float, aspect: float, generator: torch.Generator) -> Camera:
    """A camera that looks at the middle of the objects from where they about fill the photo."""
    heights = [placed.position[1] for placed in objects]
    target = (0.0, sum(heights) / len(heights), 0.0)
    radius = max(
        MIN_RADIUS,
        *(math.dist(placed.position, target) + math.hypot(*placed.item.body.half) * placed.scale for placed in objects),
    )
    fov = uniform(generator, *FOV_DEG)
    focal = 0.5 / math.tan(math.radians(fov / 2))  # in longer sides
    narrow = math.atan(0.5 * min(aspect, 1 / aspect) / focal)  # half the angle across the shorter side
    camera = orbit(
        torch.tensor([azimuth]),
        torch.tensor([uniform(generator, *CAMERA_ELEVATION_DEG)]),
        torch.tensor([radius / math.sin(narrow) * uniform(generator, *CLOSENESS)]),
        torch.tensor([fov]),
    )
    pose = camera.pose.clone()
    pose[:, :3, 3] += torch.tensor(target)
    fx, fy = (focal, focal * aspect) if aspect >= 1 else (focal / aspect, focal)
    return Camera(pose, torch.tensor([[fx, fy, 0.5, 0.5]]))


def _wall(objects: tuple[Placed, ...], azimuth: float, texture: Texture, generator: torch.Generator) -> Plane:
    """Upright, behind all objects as the camera sees them, not quite square to its direction."""
    angle = math.radians(azimuth + uniform(generator, -20, 20))
    normal = (math.sin(angle), 0.0, math.cos(angle))
    reach = max(
        math.hypot(placed.position[0], placed.position[2]) + placed.item.body.girth * placed.scale for placed in objects
    )
    behind = reach + uniform(generator, *WALL_BEHIND)
    point = (-normal[0] * behind, 0.0, -normal[2] * behind)
    return Plane(point, normal, (math.cos(angle), 0.0, -math.sin(angle)), (0.0, 1.0, 0.0), texture)

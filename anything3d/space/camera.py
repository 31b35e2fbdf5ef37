"""Cameras, and the one statement of axes, handedness and units.

World: right-handed, y up; an object's canonical frame has its centre at 0, its longest side 1, its front towards +z.
Camera: x right, y up, looks along -z (OpenGL). Angles are degrees at every border, radians inside formulas.
Image: u grows to the right, v grows downwards, both 0..1 over the image, pixel centres at (i + 0.5) / n.
Colours: float in [0, 1]. Images: H W C uint8 on disk, C H W in networks. Depth: distance along -z of the camera.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Camera:
    """B pinhole cameras.

    `pose` maps camera to world coordinates (rotation and translation, no scale). `intrinsics` are (fx, fy, cx, cy) as
    fractions of the image's width and height, so that one camera serves every resolution: u = fx * x / -z + cx,
    v = cy - fy * y / -z.
    """

    pose: Float[Tensor, "B 4 4"]
    intrinsics: Float[Tensor, "B 4"]

    def __len__(self) -> int:
        return len(self.pose)

    def __getitem__(self, rows: slice | Tensor) -> "Camera":
        return Camera(self.pose[rows], self.intrinsics[rows])

    def to(self, device: torch.device | str) -> "Camera":
        return Camera(self.pose.to(device), self.intrinsics.to(device))


def orbit(
    azimuth_deg: Float[Tensor, "B"],
    elevation_deg: Float[Tensor, "B"],
    distance: Float[Tensor, "B"],
    fov_deg: Float[Tensor, "B"],
) -> Camera:
    """Cameras that look at the origin from a sphere.

    Azimuth 0 is the front (+z), 90 is +x; elevation 90 is straight above. `fov_deg` is the whole angle across a square
    image; the principal point is its centre. Elevations within 0.01 degrees of a pole are undefined (no up vector).
    """
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    backward = torch.stack(
        [azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], dim=-1
    )  # the camera's +z: from the origin to the eye
    right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], dim=-1)
    up = torch.linalg.cross(backward, right)
    pose = torch.eye(4, dtype=backward.dtype, device=backward.device).repeat(len(backward), 1, 1)
    pose[:, :3, :3] = torch.stack([right, up, backward], dim=-1)
    pose[:, :3, 3] = backward * distance[:, None]
    focal = 0.5 / torch.tan(torch.deg2rad(fov_deg) / 2)
    centre = torch.full_like(focal, 0.5)
    return Camera(pose, torch.stack([focal, focal, centre, centre], dim=-1))


def rays(camera: Camera, height: int, width: int) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 3"]]:
    """Origins and directions (unit length, world axes) through every pixel centre."""
    pose, intrinsics = camera.pose, camera.intrinsics
    v, u = torch.meshgrid(
        (torch.arange(height, device=pose.device) + 0.5) / height,
        (torch.arange(width, device=pose.device) + 0.5) / width,
        indexing="ij",
    )
    fx, fy, cx, cy = (value[:, None, None] for value in intrinsics.unbind(-1))
    local = torch.stack([(u - cx) / fx, (cy - v) / fy, -torch.ones_like(u).expand(len(pose), -1, -1)], dim=-1)
    directions = torch.einsum("bij,bhwj->bhwi", pose[:, :3, :3], local)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return pose[:, None, None, :3, 3].expand_as(directions), directions


def rays_through(
    camera: Camera, view: Int[Tensor, "N"], where: Float[Tensor, "N 2"]
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Single rays as `rays` has them: ray i goes through the point (u, v) `where[i]` of the image of camera view[i]."""
    pose, intrinsics = camera.pose[view], camera.intrinsics[view]
    across = (where - intrinsics[:, 2:]) / intrinsics[:, :2]
    local = torch.stack([across[:, 0], -across[:, 1], -torch.ones_like(across[:, 0])], dim=-1)
    directions = torch.nn.functional.normalize((pose[:, :3, :3] @ local[..., None])[..., 0], dim=-1)
    return pose[:, :3, 3], directions


def project(camera: Camera, points: Float[Tensor, "B N 3"]) -> tuple[Float[Tensor, "B N 2"], Float[Tensor, "B N"]]:
    """(u, v) of world points and their depth; points with depth <= 0 are behind the camera and their (u, v) void."""
    offset = points - camera.pose[:, None, :3, 3]
    local = torch.einsum("bji,bnj->bni", camera.pose[:, :3, :3], offset)
    depth = -local[..., 2]
    fx, fy, cx, cy = (value[:, None] for value in camera.intrinsics.unbind(-1))
    safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
    return torch.stack([fx * local[..., 0] / safe + cx, cy - fy * local[..., 1] / safe], dim=-1), depth


def angles(camera: Camera) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Azimuth in [0, 360) and elevation, in degrees, of each camera's position seen from the origin."""
    eye = camera.pose[:, :3, 3]
    azimuth = torch.rad2deg(torch.atan2(eye[:, 0], eye[:, 2])) % 360
    elevation = torch.rad2deg(torch.asin((eye[:, 1] / eye.norm(dim=-1)).clamp(-1, 1)))
    return azimuth, elevation

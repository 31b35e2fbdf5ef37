"""Fields: B voxel grids of density and colour over the cube [-half, half]^3 of the canonical frame.

The nodes of a grid hold raw numbers. A point between nodes is interpolated trilinearly first and activated afterwards.
So a surface can be sharper than a voxel. The first and the last node of an axis lie on the cube's faces.

Sources: direct voxel-grid optimisation, Sun et al. 2022 (interpolate, then activate); softplus(x - 1) as in Score
Jacobian Chaining, Wang et al. 2023.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anything3d import seed
from anything3d.settings.reconstruct import EMPTY, FieldConfig
from anything3d.space import lattice
from anything3d.space.cloud import Cloud
from anything3d.space.grids import Grids

NEIGHBOURS = 4  # cloud points whose colours are averaged, weighted by 1 / distance^2
REACH = 2.4  # gap between cloud points that still counts as closed / median distance of a point to its 4th neighbour
CRISPNESS = 3.0  # rise of softplus' argument per voxel side across the first surface
SURFACE = -2.0  # softplus' argument on the first surface: 3.8 / length, half opaque where a ray grazes a unit object
BEYOND = -3.0  # a position so far outside a grid, whose faces are at -1 and 1, that `grid_sample` reads no node for it
TINY = 1e-30  # density of what is not empty, at least; 1 / canonical length
ARGUMENT_RANGE = (-7.0, 3.0)  # of softplus at the start: clear (3 % in 1.2 lengths), opaque; both within Adam's reach


class Field(nn.Module):
    """B objects' density (1 / canonical length, >= 0, exactly 0 outside the cube) and colour (RGB, 0 to 1, or latents).

    `density_grid` and `color_grid` are the raw nodes, indexed [object, channel, z, y, x]. C is 3, or that of latents.
    """

    def __init__(
        self,
        density_grid: Float[Tensor, "B 1 R R R"],
        color_grid: Float[Tensor, "B C R R R"],
        config: FieldConfig,
        latent: bool = False,
    ) -> None:
        super().__init__()
        self.density_grid = nn.Parameter(density_grid)
        self.color_grid = nn.Parameter(color_grid)
        self.config = config
        self.latent = latent  # whether colours are the denoiser's latents, and not RGB

    @classmethod
    def from_cloud(cls, cloud: Cloud, config: FieldConfig) -> "Field":
        """Solid objects whose surfaces pass through the points of `cloud`, coloured like the nearest points.

        Space that the cloud encloses is filled; a gap wider than `REACH` leaves a shell about one voxel thick.
        """
        grids = [
            _solid(points, colors, config)
            for points, colors in zip(cloud.points.detach(), cloud.colors.detach(), strict=True)
        ]
        density, color = (torch.stack(values) for values in zip(*grids, strict=True))
        return cls(density, color, config)

    @classmethod
    def fog(cls, config: FieldConfig, generators: Sequence[torch.Generator], channels: int) -> "Field":
        """Raw density 0 everywhere, random latents: a start that knows nothing. Source: 3DFuse, voxnerf."""
        grid = (config.resolution,) * 3
        colors = seed.randn((channels, *grid), generators)
        return cls(torch.zeros(len(generators), 1, *grid), colors, config, latent=True)

    def __len__(self) -> int:
        return len(self.density_grid)

    def row(self, b: int) -> "Field":
        """Object `b` alone (a copy, B = 1)."""
        density, color = (grid[b : b + 1].detach().clone() for grid in (self.density_grid, self.color_grid))
        return Field(density, color, self.config, self.latent)

    def raw_density(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Interpolated raw density; outside the cube, that of the nearest face. Its level sets are those of density."""
        return _interpolate(self.density_grid, points, self.config.half)[:, 0]

    def density(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """Density alone: four times cheaper than `density_color`."""
        return self.activate(self.raw_density(points), points)

    def density_color(self, points: Float[Tensor, "B N 3"]) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N C"]]:
        """Density and colour in one look-up."""
        raw = _interpolate(torch.cat([self.density_grid, self.color_grid], dim=1), points, self.config.half)
        return self.activate(raw[:, 0], points), self.paint(raw[:, 1:]).transpose(1, 2)

    def solid(self, empty: float = EMPTY) -> "Solid":
        """Without the cells that are nowhere denser than `empty`, to be looked up many times."""
        with torch.no_grad():
            raw = self.density_grid[:, 0]
            least = self._activate(_corners(raw, torch.minimum)).flatten(1).clamp_min(TINY)
            if empty:
                sparse = _corners(raw, torch.maximum).flatten(1) <= self.raw_level(empty)
                least = least.masked_fill(sparse, 0.0)  # A NaN is to be seen: it is not sparse
        return Solid(self, least, torch.cat([self.density_grid, self.color_grid], dim=1))

    def raw_level(self, density: float) -> float:
        """The raw value whose density is `density` > 0."""
        return self.config.raw_level(density)

    def activate(self, raw: Float[Tensor, "B N"], points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N"]:
        """The density of raw values at these points."""
        inside = points.abs().amax(-1) <= self.config.half * (1 + 1e-5)  # the faces belong to the cube
        return self._activate(raw) * inside

    def _activate(self, raw: Tensor) -> Tensor:
        return self.config.density_scale * nn.functional.softplus(raw + self.config.density_bias)

    def paint(self, raw: Tensor) -> Tensor:
        """The colours of raw values."""
        return raw if self.latent else raw.sigmoid()

    def rounded(self) -> "Field":
        """The fields as `to_bytes` has them: the raw grids are rounded to float16, and are float32 again."""
        return Field(self.density_grid.detach().half().float(), self.color_grid.detach().half().float(), self.config)

    def grids(self, b: int) -> Grids:
        """The raw grids of object `b` in float32, on the CPU."""
        density, color = (grid[b].detach().float().cpu().numpy() for grid in (self.density_grid, self.color_grid))
        return Grids(density, color, self.config, self.latent)

    def to_bytes(self, b: int) -> bytes:
        """Object `b` as `Grids.to_bytes` has it: raw grids are rounded to float16."""
        return self.grids(b).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Field":
        """The object of `to_bytes`, in float32 (B = 1). Raises: InputError("bad_field") if `data` is none."""
        grids = Grids.from_bytes(data)
        density, color = (torch.from_numpy(grid)[None] for grid in (grids.density, grids.color))
        return cls(density, color, grids.config, grids.latent)


@dataclass(frozen=True, slots=True)
class Solid:
    """A field's cells, numbered along x, then y, then z, and its raw grids.

    Most of what rays cross is empty or hidden, and the cells say so: not looking there takes most off rendering. A
    surface can still grow, out of the corners of its own cells.
    """

    field: Field
    least: Float[Tensor, "B cells"]  # the density is nowhere less in a cell, but for TINY; 0 if all corners are empty
    grid: Float[Tensor, "B D R R R"]

    def least_along(
        self, origins: Float[Tensor, "3 B *N"], directions: Float[Tensor, "3 B *N"], lengths: Float[Tensor, "B *S"]
    ) -> Float[Tensor, "B *S"]:
        """`least` of the cell of origin + length * direction. Outside the cube, that of the nearest face.

        The first axis is x, y, z, and what follows is broadcast to the lengths.
        """
        config = self.field.config
        along = config.resolution - 1  # cells along an axis
        scale = along / (2 * config.half)
        places = torch.addcmul((origins + config.half) * scale, lengths, directions * scale)
        x, y, z = places.clamp_(0, along - 1).int()
        cell = (z * along + y) * along + x
        return self.least.gather(1, cell.flatten(1).long()).view_as(cell)

    def look_up(
        self, points: Float[Tensor, "B N 3"], seen: Bool[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B C N"]]:
        """Density and colour of points. One that is not `seen` costs no access to a grid.

        Its density is 0, and its colour means nothing. The shapes depend on no number, so that no host has to wait.
        """
        faces = (points / self.field.config.half).clamp(-1, 1)  # as `padding_mode="border"` has it
        positions = torch.where(seen[..., None], faces, BEYOND)[:, :, None, None]
        values = nn.functional.grid_sample(
            self.grid, positions, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        raw = values[..., 0, 0]
        return self.field.activate(raw[:, 0], points) * seen, self.field.paint(raw[:, 1:])


def nodes(resolution: int, half: float) -> Float[Tensor, "R R R 3"]:
    """Coordinates (x, y, z) of a cube's nodes, indexed [z, y, x]."""
    axis = torch.linspace(-half, half, resolution)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def _corners(grid: Float[Tensor, "B R R R"], chosen: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "B r r r"]:
    """The largest or least of each cell's eight corners, r = R - 1, or NaN if one is. `max_pool3d` takes longer."""
    for axis in (1, 2, 3):
        grid = chosen(grid.narrow(axis, 0, grid.shape[axis] - 1), grid.narrow(axis, 1, grid.shape[axis] - 1))
    return grid


def _interpolate(
    grid: Float[Tensor, "B C R R R"], points: Float[Tensor, "B N 3"], half: float
) -> Float[Tensor, "B C N"]:
    positions = (points / half)[:, :, None, None]
    values = nn.functional.grid_sample(grid, positions, mode="bilinear", padding_mode="border", align_corners=True)
    return values[..., 0, 0]


def _solid(
    points: Float[Tensor, "N 3"], colors: Float[Tensor, "N 3"], config: FieldConfig
) -> tuple[Float[Tensor, "1 R R R"], Float[Tensor, "3 R R R"]]:
    """Raw first grids of one object: a signed distance to the cloud, and the nearest points' colours.

    Far from the points the sign says whether a walker from outside gets there without crossing a gap narrower than the
    reach. Near them it is unknown: there, depth below the surface is the distance to what the walker reached,
    less the reach (a morphological closing), and never more than the distance to the nearest point.
    """
    R, half = config.resolution, config.half
    voxel = 2 * half / (R - 1)
    count = min(NEIGHBOURS + 1, len(points))
    spacing = float(lattice.spacings(points, count).median())
    reach = max(REACH * spacing, 1.01 * voxel)

    room = math.ceil(reach / voxel) + 1  # for the walker, where an object reaches close to the cube's faces
    wide = R + 2 * room
    axis = torch.linspace(-half - room * voxel, half + room * voxel, wide).to(points.device)
    distances, neighbours = lattice.neighbours(axis, points, max(count - 1, 1))
    distance = distances[:, 0].reshape(wide, wide, wide)
    enclosed = lattice.fill_holes(distance < reach)
    seen = room + math.ceil((ARGUMENT_RANGE[1] - SURFACE) / CRISPNESS)  # voxels; deeper, the argument is at its limit
    depth = lattice.depth_inside(enclosed, seen) * voxel - reach + 0.5 * voxel
    signed = torch.where(enclosed, depth.clamp(-distance, distance), -distance)
    density = (SURFACE + CRISPNESS * signed / voxel).clamp(*ARGUMENT_RANGE) - config.density_bias

    weights = 1 / (distances.square() + 1e-6)
    color = (colors[neighbours] * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    raw_color = torch.logit(color.clamp(0.02, 0.98)).T.reshape(3, wide, wide, wide)
    cube = (slice(None), *(slice(room, -room),) * 3)
    return density[None][cube].contiguous(), raw_color[cube].contiguous()

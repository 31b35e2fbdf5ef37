"""What a network of toy size is told of an object's surface, so that it need not learn where points may lie.

Nothing of this is in the official networks. A base network reads a coarse shape from the image (`CoarseShape`); an
upsampler has the coarse cloud. Either becomes a set of flat discs (`Discs`), and `KnownSurface` says in closed form
where noisy points come from if there is nothing but these discs.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d.models.pointe.schedule import Schedule, alphas_cumprod

THICKNESS = 0.03  # longest sides: a cell counts by the normal density of its distance to the surface, of this deviation
SURFACE_CELLS = 768  # of a grid, at most, that count at all
FLAT = 0.01  # model units: deviation of a disc's density across it
IN_A_DISC = 9  # points of a cloud that make a disc
TINY = 1e-6


class CoarseShape(nn.Module):
    """What the image says of the shape: signed distances at cells of the unit cube, in data units and Point-E's axes.

    Not in the official networks.
    """

    def __init__(self, pooled_width: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.grid = nn.Linear(pooled_width, cells**3)

    def forward(self, pooled: Float[Tensor, "B H"]) -> Float[Tensor, "B z y x"]:
        return self.grid(pooled).unflatten(1, (self.cells,) * 3)

    @torch.no_grad()
    def surface(self, grid: Float[Tensor, "B z y x"]) -> "Discs":
        """Mid-grey discs on the surface, one for each of the cells next to it."""
        grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
        axis = (torch.arange(self.cells, device=grid.device, dtype=grid.dtype) + 0.5) / self.cells - 0.5
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        away = torch.stack(torch.gradient(grid, spacing=1 / self.cells, dim=(3, 2, 1)), dim=-1)
        steep = away.norm(dim=-1, keepdim=True)  # 1, and less in the middle between two sides
        centre = torch.stack([x, y, z], dim=-1) - grid[..., None] * away / steep.clamp(min=0.3)
        log_weight, cells = (-((grid / THICKNESS) ** 2) / 2).flatten(1).topk(min(SURFACE_CELLS, self.cells**3))
        centre, normal = (
            value.flatten(1, 3).take_along_dim(cells[..., None], 1) for value in (centre, away / steep.clamp(min=TINY))
        )
        return Discs(F.pad(2 * centre, (0, 3)), normal, log_weight)  # model units are half data units


@dataclass(frozen=True, slots=True)
class Discs:
    """A surface as flat normal densities around points."""

    centre: Float[Tensor, "B M C"]  # model units
    normal: Float[Tensor, "B M 3"]  # either way
    log_weight: Float[Tensor, "B M"]

    @classmethod
    @torch.no_grad()
    def around(cls, points: Float[Tensor, "B M C"]) -> "Discs":
        """Through each point and its nearest ones, all alike."""
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        xyz = points[..., :3]
        nearest = torch.cdist(xyz, xyz).topk(min(IN_A_DISC, points.shape[1]), largest=False).indices
        around = xyz[:, None].expand(-1, xyz.shape[1], -1, -1).take_along_dim(nearest[..., None], 2)
        around = around - around.mean(2, keepdim=True)
        spread = (around.mT @ around).nan_to_num()  # a NaN stays in its centre, and eigh does not raise
        normal = torch.linalg.eigh(spread).eigenvectors[..., 0]
        return cls(points, normal, points.new_zeros(points.shape[:2]))


class KnownSurface(nn.Module):
    """Where noisy points come from if a known surface is all there is. The diffusion's answer is in closed form.

    Not in the official networks. Through attention a small network learns where points may lie, and hardly how far one
    is from there; what it learnt to add to this answer made clouds worse. Model units.
    """

    def __init__(self, width: int, schedule: Schedule, reach: float) -> None:
        super().__init__()
        self.schedule = schedule
        self.reach = reach  # deviation of a disc's density along it
        self.tell = nn.Linear(9, width)

    def forward(
        self, discs: Discs, x: Float[Tensor, "B C N"], t: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N width"]]:
        """The expected clean points (colours are those of the discs near them), and what the network is told of it."""
        # No autocast: bfloat16 is too coarse for coordinates.
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            sigma = _noise_levels(self.schedule, x.device)[t].to(discs.normal)[:, None, None]
            seen = x[:, :3].to(sigma).transpose(1, 2) * (1 + sigma**2).sqrt()
            position, color = self.expect(discs, seen, sigma)
            off = (seen - position) / (sigma**2 + self.reach**2).sqrt()
            told = torch.cat([off, position, color], dim=-1)
        return torch.cat([position, color], dim=-1), self.tell(told.to(x.dtype))

    def expect(
        self, discs: Discs, seen: Float[Tensor, "B N 3"], sigma: Float[Tensor, "B 1 1"]
    ) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N D"]]:
        """Mean position, and mean colour of the discs, of points that have become `seen` by noise of deviation `sigma`.

        The posterior mean of a mixture of normal densities, each as wide as `reach` along its disc and FLAT across.
        """
        along, across = sigma**2 + self.reach**2, sigma**2 + FLAT**2
        centre = discs.centre[..., :3]
        height = seen @ discs.normal.mT - (centre * discs.normal).sum(-1)[:, None]
        square = torch.cdist(seen, centre).square() / along + height.square() * (1 / across - 1 / along)
        weight = (discs.log_weight[:, None] - square / 2).softmax(-1)
        kept, kept_across = self.reach**2 / along, FLAT**2 / across  # of what is seen
        off_disc = (weight * height) @ discs.normal
        position = (1 - kept) * (weight @ centre) + kept * seen + (kept_across - kept) * off_disc
        return position, weight @ discs.centre[..., 3:]


@functools.cache
def _noise_levels(schedule: Schedule, device: torch.device) -> Float[Tensor, "T"]:
    """Sigma at each discrete time."""
    return (1 / torch.tensor(alphas_cumprod(schedule), dtype=torch.float64) - 1).sqrt().to(device)

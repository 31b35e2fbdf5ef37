"""From where a crop sees a mesh, where the command has not said it: searched for, as `lift` does for its clouds."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.settings.lift import LiftConfig
from anything3d.space.cloud import Cloud
from anything3d.space.mesh import Mesh
from anything3d.space.reference import direction_grid, directions_near, search, small_crops
from anything3d.space.viewpoint import ReferenceCamera

POINTS = 4096  # of the surface, that are drawn as discs
SEARCH = LiftConfig()  # its directions, sizes and distance


def surface_cloud(mesh: Mesh, points: int = POINTS) -> Cloud:
    """One cloud of points that lie evenly on the surface, with its colours; the same mesh gives the same points."""
    random = np.random.default_rng(0)
    corners, colors = mesh.vertices[mesh.faces].astype(np.float64), mesh.colors[mesh.faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    share = areas / areas.sum() if areas.sum() > 0 else np.full(len(areas), 1 / len(areas))
    chosen = random.choice(len(areas), points, p=share)
    root, v = np.sqrt(random.random((points, 1))), random.random((points, 1))
    weights = np.stack([1 - root, root * (1 - v), root * v], axis=1)
    both = ((values[chosen] * weights).sum(axis=1).astype(np.float32) for values in (corners, colors))
    return Cloud(*(torch.from_numpy(values)[None] for values in both))


@torch.no_grad()
def found_camera(
    mesh: Mesh, crop: Float[Tensor, "4 S S"], unseen: Float[Tensor, "S S"] | None, device: torch.device
) -> ReferenceCamera:
    """The direction from which the mesh looks most like the crop; the crop's frame is fitted to the mask.

    `unseen` is the share of each pixel in which the object may go on without being seen; None: nowhere.
    """
    cloud, crops = surface_cloud(mesh).to(device), crop[None].to(device)
    hidden = None if unseen is None else unseen[None].to(device)
    around, span = 360 / SEARCH.azimuths, SEARCH.highest_deg - SEARCH.lowest_deg
    grid = direction_grid(SEARCH.azimuths, SEARCH.elevations, SEARCH.lowest_deg, SEARCH.highest_deg).to(device)
    rough = search(cloud, small_crops(crops, SEARCH.draft_match_px, hidden), grid[None], SEARCH.distance).best()
    reach = (around / 2, span / (SEARCH.elevations - 1) / 2)
    near = directions_near(rough.azimuth_deg[:, 0], rough.elevation_deg[:, 0], reach)
    best = search(cloud, small_crops(crops, SEARCH.match_px, hidden), near, SEARCH.distance).best()
    fx, fy, cx, cy = best.intrinsics[0, 0].tolist()
    return ReferenceCamera(float(best.azimuth_deg), float(best.elevation_deg), SEARCH.distance, (fx, fy, cx, cy))

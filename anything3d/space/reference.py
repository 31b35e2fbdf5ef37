"""The reference camera: from where the photo sees the canonical object.

Point-E gives every cloud in the canonical frame, whatever the viewpoint of the photo is. So the viewpoint is searched
for: coloured discs are drawn from a grid of directions and compared with the crop. The distance is given
(lift.distance). The scale and the offset of the image are fitted, because the frame of the crop says nothing about the
lens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anything3d.settings.reconstruct import POINT_E_FOV_DEG
from anything3d.space.camera import Camera, orbit, project
from anything3d.space.cloud import Cloud
from anything3d.space.depth import splat
from anything3d.space.viewpoint import ReferenceCamera

DISC = 0.72  # radius of a disc = DISC / sqrt(points), of the image side: closes the surface of an object that fills it
MAX_SPLATS = 2**18  # points times views at once; bounds the work space
POLE_DEG = 89.0  # a camera looks no steeper
TOUCH = 0.025  # fraction of the crop's side; how near a mask's end is to what is unseen, if the object may go on there
SIDES_PX = 128  # px of the crops in which this is looked at


@dataclass(frozen=True, slots=True)
class SmallCrops:
    """B crops as they are compared with splats: small and premultiplied, with the boxes of their masks at full size."""

    rgba: Float[Tensor, "B 4 S S"]
    boxes: Float[Tensor, "B 4"]  # left, top, right, bottom; fractions of the crop's side
    known: Float[Tensor, "B 4"]  # 1 if the object ends at that side of the box, 0 if it may go on without being seen
    unseen: Float[Tensor, "B S S"]  # share of each pixel in which the object may go on without being seen

    def __getitem__(self, rows: slice) -> "SmallCrops":
        return SmallCrops(self.rgba[rows], self.boxes[rows], self.known[rows], self.unseen[rows])

    def repeat(self, times: int) -> "SmallCrops":
        """Each one `times` times in a row."""
        parts = (self.rgba, self.boxes, self.known, self.unseen)
        return SmallCrops(*(part.repeat_interleave(times, 0) for part in parts))


@dataclass(frozen=True, slots=True)
class Matches:
    """V directions tried for each of B objects, how the crop frames them, and how well they match it (0..1)."""

    azimuth_deg: Float[Tensor, "B V"]
    elevation_deg: Float[Tensor, "B V"]
    intrinsics: Float[Tensor, "B V 4"]
    match: Float[Tensor, "B V"]

    def best(self) -> "Matches":
        """The best view of each object, V = 1; the first of equals."""
        row = torch.arange(len(self.match), device=self.match.device)[:, None]
        column = self.match.argmax(1, keepdim=True)
        parts = (self.azimuth_deg, self.elevation_deg, self.intrinsics, self.match)
        return Matches(*(part[row, column] for part in parts))


def camera_of(
    azimuth_deg: Float[Tensor, "B"],
    elevation_deg: Float[Tensor, "B"],
    distance: Float[Tensor, "B"],
    intrinsics: Float[Tensor, "B 4"],
) -> Camera:
    """Cameras towards the origin, as `orbit`, with these intrinsics."""
    pose = orbit(azimuth_deg, elevation_deg, distance, torch.full_like(distance, POINT_E_FOV_DEG)).pose
    return Camera(pose, intrinsics)


def stack(references: Sequence[ReferenceCamera]) -> Camera:
    """One Camera of B from B reference cameras."""
    return camera_of(
        torch.tensor([reference.azimuth_deg for reference in references]),
        torch.tensor([reference.elevation_deg for reference in references]),
        torch.tensor([reference.distance for reference in references]),
        torch.tensor([reference.intrinsics for reference in references]),
    )


def direction_grid(azimuths: int, elevations: int, low_deg: float, high_deg: float) -> Float[Tensor, "V 2"]:
    """(azimuth, elevation) of `azimuths` directions around, at `elevations` heights from `low_deg` to `high_deg`."""
    around = torch.arange(azimuths) * (360 / azimuths)
    return torch.cartesian_prod(around, torch.linspace(low_deg, high_deg, elevations))


def directions_near(
    azimuth_deg: Float[Tensor, "B"], elevation_deg: Float[Tensor, "B"], reach_deg: tuple[float, float]
) -> Float[Tensor, "B 25 2"]:
    """Five by five directions around each one, up to `reach_deg` (azimuth, elevation) away, short of the poles."""
    steps = torch.linspace(-1, 1, 5, device=azimuth_deg.device)
    offsets = torch.cartesian_prod(steps * reach_deg[0], steps * reach_deg[1])
    azimuth = (azimuth_deg[:, None] + offsets[:, 0]) % 360
    elevation = (elevation_deg[:, None] + offsets[:, 1]).clamp(-POLE_DEG, POLE_DEG)
    return torch.stack([azimuth, elevation], dim=-1)


def small_crops(crops: Float[Tensor, "B 4 S S"], size: int, unseen: Float[Tensor, "B S S"] | None = None) -> SmallCrops:
    """RGBA crops in [0, 1] as they are compared at `size` px.

    `unseen` is the share of each pixel in which the object may go on without being seen; None: nowhere.
    """
    small, boxes = shrink(crops, size), mask_boxes(crops[:, 3])
    if unseen is None:
        return SmallCrops(small, boxes, torch.ones_like(boxes), torch.zeros_like(small[:, 3]))
    known = known_sides(crops[:, 3], unseen, boxes)
    return SmallCrops(small, boxes, known, F.interpolate(unseen[:, None], (size, size), mode="area")[:, 0])


def known_sides(
    alpha: Float[Tensor, "B S S"], unseen: Float[Tensor, "B S S"], boxes: Float[Tensor, "B 4"]
) -> Float[Tensor, "B 4"]:
    """Which sides of the masks' boxes are ends of the objects (1): left, top, right, bottom.

    At the others (0), most of the outermost part of the mask is nearer than TOUCH to what is unseen. That part is half
    as deep as TOUCH.
    """
    small, hidden = (F.interpolate(some[:, None], (SIDES_PX,) * 2, mode="area")[:, 0] for some in (alpha, unseen))
    reach = round(TOUCH * SIDES_PX)
    near = F.max_pool2d(hidden[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0.5
    inside = small > 0.5
    places = (torch.arange(SIDES_PX, device=alpha.device) + 0.5) / SIDES_PX
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    deep = TOUCH / 2
    bands = (places < left + deep, places < top + deep, places > right - deep, places > bottom - deep)
    known = []
    for side, band in enumerate(bands):
        outermost = inside & (band[:, None] if side % 2 == 0 else band[:, :, None])
        known.append(2 * (outermost & near).sum((1, 2)) <= outermost.sum((1, 2)))
    return torch.stack(known, dim=1).to(alpha)


def shrink(crops: Float[Tensor, "B 4 S S"], size: int) -> Float[Tensor, "B 4 s s"]:
    """RGBA crops premultiplied and averaged down to `size` px, so that colour outside the mask does not bleed in."""
    premultiplied = torch.cat([crops[:, :3] * crops[:, 3:], crops[:, 3:]], dim=1)
    return F.interpolate(premultiplied, (size, size), mode="area")


def search(cloud: Cloud, crops: SmallCrops, directions: Float[Tensor, "B V 2"], distance: float) -> Matches:
    """How well cloud b, seen from each of its directions (azimuth, elevation; degrees), matches crop b.

    `distance` is the camera's from the origin in canonical units. A cloud with a NaN matches nothing (0).
    """
    few = max(1, MAX_SPLATS // (directions.shape[1] * cloud.points.shape[1]))
    parts = [
        _search_few(cloud[rows], crops[rows], directions[rows], distance)
        for rows in (slice(start, start + few) for start in range(0, len(cloud), few))
    ]
    intrinsics, match = (torch.cat(part) for part in zip(*parts, strict=True))
    return Matches(directions[..., 0], directions[..., 1], intrinsics, match)


def mask_boxes(alpha: Float[Tensor, "B S S"]) -> Float[Tensor, "B 4"]:
    """Left, top, right, bottom of the pixels with alpha > 1/2, fractions of the side; the whole image if none has."""
    inside = alpha > 0.5
    inside = inside | ~inside.any((1, 2), keepdim=True)
    side = alpha.shape[-1]
    columns, rows = inside.any(1).float(), inside.any(2).float()
    low = [columns.argmax(1), rows.argmax(1)]
    high = [side - columns.flip(1).argmax(1), side - rows.flip(1).argmax(1)]
    return torch.stack([*low, *high], dim=1) / side


def frame(
    where: Float[Tensor, "B N 2"], boxes: Float[Tensor, "B 4"], known: Float[Tensor, "B 4"], margin: float
) -> Float[Tensor, "B 4"]:
    """Intrinsics that move and scale (alike in both axes) points seen with focal length 1 and centre 1/2 into boxes.

    The boxes' centres coincide; the scale is the least-squares fit of width and height. The points' discs reach
    `margin` (fraction of the image side) beyond them, so the points themselves go into a box smaller by that.

    A side that is not `known` says nothing of where the points end. So its axis says nothing of their size, if the
    other axis does. If neither does, the size is that of the box.
    """
    low, high = where.amin(1), where.amax(1)
    span = (high - low).clamp(min=1e-6)
    room = (boxes[:, 2:] - boxes[:, :2] - 2 * margin).clamp(min=1e-3)
    first, last = known[:, :2], known[:, 2:]
    whole = first * last
    counts = torch.where(whole.any(1, keepdim=True), whole, 1.0)
    scale = (counts * span * room).sum(1, keepdim=True) / (counts * span**2).sum(1, keepdim=True)
    from_first = boxes[:, :2] + margin - (low - 0.5) * scale
    from_last = boxes[:, 2:] - margin - (high - 0.5) * scale
    weight = torch.where(first == last, 0.5, first)
    return torch.cat([scale, scale, weight * from_first + (1 - weight) * from_last], dim=1)


def _search_few(
    cloud: Cloud, crops: SmallCrops, directions: Float[Tensor, "B V 2"], distance: float
) -> tuple[Float[Tensor, "B V 4"], Float[Tensor, "B V"]]:
    n_views, n_points = directions.shape[1], cloud.points.shape[1]
    seen = Cloud(cloud.points.repeat_interleave(n_views, 0), cloud.colors.repeat_interleave(n_views, 0))
    repeated = crops.repeat(n_views)
    azimuth, elevation = directions.flatten(0, 1).unbind(-1)
    unit = azimuth.new_tensor([1.0, 1.0, 0.5, 0.5]).expand(len(azimuth), -1)
    camera = camera_of(azimuth, elevation, torch.full_like(azimuth, distance), unit)
    radius = DISC / n_points**0.5
    camera = Camera(camera.pose, frame(project(camera, seen.points)[0], repeated.boxes, repeated.known, radius))
    _, color, alpha = splat(seen, camera, crops.rgba.shape[-1], radius)
    match = agreement(color, alpha, repeated.rgba, repeated.unseen)
    return camera.intrinsics.unflatten(0, (-1, n_views)), match.unflatten(0, (-1, n_views))


def agreement(
    color: Float[Tensor, "B 3 S S"],
    alpha: Float[Tensor, "B S S"],
    target: Float[Tensor, "B 4 S S"],
    unseen: Float[Tensor, "B S S"],
) -> Float[Tensor, "B"]:
    """IoU of the silhouettes times 1 - mean absolute colour difference where they overlap: 1 is equal, 0 disjoint.

    `target` is premultiplied RGBA. What a silhouette has in the `unseen` share of a pixel does not count.
    """
    mask = target[:, 3]
    alpha = torch.minimum(alpha, 1 - unseen)
    both = torch.minimum(alpha, mask)
    common = both.sum((1, 2))
    iou = common / torch.maximum(alpha, mask).sum((1, 2)).clamp(min=1e-6)
    straight = target[:, :3] / mask[:, None].clamp(min=1e-6)
    difference = ((color - straight).abs().mean(1) * both).sum((1, 2)) / common.clamp(min=1e-6)
    return iou * (1 - difference)

"""Batches of object views, made worse as in photographs: with occluders, in other frames, with inexact masks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d.mini.training.data import Crops, Objects
from anything3d.mini.words import COLORS

OCCLUDED = 0.3  # of the views
LEAST_VISIBLE = 0.35  # of an occluded silhouette; views with less are left whole
OCCLUDED_CONTEXT = (1.15, 1.5)  # side of the new frame / longer side of what is still visible
PAINTED = 0.5  # of the views: in other colours
SDF_LIMIT = 0.15  # canonical units; distances are cut there
SOLID = 0.5  # opacity from which a pixel counts


@dataclass(frozen=True, slots=True)
class Rows:
    """B views of the set: which object, which of its views."""

    item: Int[Tensor, "B"]
    view: Int[Tensor, "B"]

    def __len__(self) -> int:
        return len(self.item)


def draw(objects: Objects, count: int, generator: torch.Generator) -> Rows:
    n, views = objects.rgba.shape[:2]
    return Rows(torch.randint(n, (count,), generator=generator), torch.randint(views, (count,), generator=generator))


def every(objects: Objects, count: int) -> Rows:
    """The first `count` objects, each from one of its views in turn: the rows of held-out scores."""
    item = torch.arange(min(count, len(objects)))
    return Rows(item, item % objects.rgba.shape[1])


def rgba(objects: Objects, rows: Rows) -> Float[Tensor, "B 4 S S"]:
    """Clean views in [0, 1], straight alpha."""
    return objects.rgba[rows.item, rows.view].float() / 255


def distances(objects: Objects, rows: Rows) -> Float[Tensor, "B z y x"]:
    """Signed distances along Point-E's axes, whose z is the canonical y and whose y is the canonical -z."""
    return _along_point_e(objects.sdf[rows.item])


def _along_point_e(sdf: Float[Tensor, "B x y z"]) -> Float[Tensor, "B z y x"]:
    return sdf.float().permute(0, 2, 3, 1).flip(2).clamp(-SDF_LIMIT, SDF_LIMIT)


def crops(objects: Objects, rows: Rows, generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """The views as the pipeline's crops show them, over white: some occluded, most masks slightly wrong."""
    seen = _occlude(rgba(objects, rows), rgba(objects, draw(objects, len(rows), generator)), generator)
    photo, alpha = _misjudge_mask(seen, generator)
    return (photo * alpha + 1 - alpha).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class Seen:
    """B crops over white, and what is true of the objects in them."""

    pixels: Float[Tensor, "B 3 S S"]  # in [0, 1]
    shape: Int[Tensor, "B"]  # index into words.SHAPES
    color: Int[Tensor, "B"]  # index into words.COLORS
    direction: Float[Tensor, "B 3"]  # of unit length, from the object to the camera, in the canonical frame
    distances: Float[Tensor, "B z y x"]  # signed, as `distances`

    @property
    def pair(self) -> Int[Tensor, "B"]:
        """Index of shape and colour into `clip.all_captions`."""
        return self.shape * len(COLORS) + self.color

    @classmethod
    def join(cls, parts: Sequence["Seen"]) -> "Seen":
        """The crops of all parts, in order."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def seen_alone(objects: Objects, rows: Rows, generator: torch.Generator) -> Seen:
    """Objects that were rendered alone, in `crops`."""
    return Seen(
        crops(objects, rows, generator),
        objects.shape[rows.item],
        objects.color[rows.item],
        objects.pose[rows.item, rows.view, :3, 2],  # these cameras look at the object's middle
        distances(objects, rows),
    )


def cut_by_sam(cut: Crops, rows: Int[Tensor, "B"]) -> Seen:
    """Crops that SAM's masks cut."""
    return _seen(cut, rows, cut.rgba[rows].float() / 255)


def draw_seen(objects: Objects, cut: Crops, count: int, generator: torch.Generator) -> Seen:
    """`count` random crops: first half of them objects seen alone, and then crops that SAM's masks cut.

    Of the latter, half are mirrored, and some are occluded once more.
    """
    alone = seen_alone(objects, draw(objects, count - count // 2, generator), generator)
    return Seen.join([alone, draw_cut_by_sam(cut, count // 2, generator)])


def draw_cut_by_sam(cut: Crops, count: int, generator: torch.Generator) -> Seen:
    """Random crops that SAM's masks cut: half are mirrored, some occluded. All bodies are as they were in a mirror."""
    rows, others = torch.randint(len(cut), (2, count), generator=generator)
    rgba = _occlude(cut.rgba[rows].float() / 255, cut.rgba[others].float() / 255, generator)
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    seen = _seen(cut, rows, torch.where(mirrored, rgba.flip(3), rgba))
    side = torch.where(mirrored.view(count, 1), seen.direction.new_tensor([-1.0, 1.0, 1.0]), 1.0)
    return replace(seen, direction=seen.direction * side)


def _seen(cut: Crops, rows: Int[Tensor, "B"], rgba: Float[Tensor, "B 4 S S"]) -> Seen:
    truth = cut.shape[rows], cut.color[rows], cut.direction[rows], _along_point_e(cut.sdf[rows])
    return Seen(_over_white(rgba), *truth)


def _over_white(rgba: Float[Tensor, "B 4 S S"]) -> Float[Tensor, "B 3 S S"]:
    return rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]


@dataclass(frozen=True, slots=True)
class Paint:
    """Other colours for B objects: channels swapped, and pale up to white. Shapes stay, so more pairs are seen."""

    order: Int[Tensor, "B 3"]  # of red, green and blue
    pale: Float[Tensor, "B"]  # 0: as before, 1: no hue, as bright as the brightest channel

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> "Paint":
        """For PAINTED of the rows; the others keep their colours."""
        painted = torch.rand(count, generator=generator) < PAINTED
        order = torch.where(painted[:, None], torch.rand(count, 3, generator=generator).argsort(1), torch.arange(3))
        pale = (2 * torch.rand(count, generator=generator) - 1).clamp(min=0) * painted
        return cls(order, pale)

    @property
    def changes(self) -> Bool[Tensor, "B"]:
        return (self.order != torch.arange(3)).any(1) | (self.pale > 0)

    def apply(self, colors: Float[Tensor, "B 3 *R"]) -> Float[Tensor, "B 3 *R"]:
        one = (len(colors), -1) + (1,) * (colors.ndim - 2)
        swapped = colors.take_along_dim(self.order.view(one), dim=1)
        return swapped.lerp(swapped.amax(1, keepdim=True), self.pale.view(one))


def _occlude(
    seen: Float[Tensor, "B 4 S S"], others: Float[Tensor, "B 4 S S"], generator: torch.Generator
) -> Float[Tensor, "B 4 S S"]:
    """Some views lose what a shifted silhouette of another object covers, and are framed anew."""
    count = len(seen)
    shift = 1.2 * (torch.rand(count, 2, generator=generator) - 0.5)
    theta = torch.eye(2, 3).repeat(count, 1, 1)
    theta[:, :, 2] = 2 * shift
    cover = F.grid_sample(others[:, 3:], _grid(theta, seen.shape), align_corners=False)[:, 0]
    alpha = seen[:, 3] * (1 - cover)
    share = alpha.sum((1, 2)) / seen[:, 3].sum((1, 2)).clamp(min=1e-6)
    hit = (torch.rand(count, generator=generator) < OCCLUDED) & (share > LEAST_VISIBLE) & (share < 0.98)
    context = OCCLUDED_CONTEXT[0] + (OCCLUDED_CONTEXT[1] - OCCLUDED_CONTEXT[0]) * torch.rand(count, generator=generator)
    cut = torch.cat([seen[:, :3] * alpha[:, None], alpha[:, None]], dim=1)  # premultiplied
    framed = F.grid_sample(cut, _grid(_frame(alpha > SOLID, context), seen.shape), align_corners=False)
    straight = torch.cat([framed[:, :3] / framed[:, 3:].clamp(min=1e-3), framed[:, 3:]], dim=1).clamp(0, 1)
    return torch.where(hit[:, None, None, None], straight, seen)


def _frame(inside: Bool[Tensor, "B S S"], context: Float[Tensor, "B"]) -> Float[Tensor, "B 2 3"]:
    """The affine map (of affine_grid) to a square of `context` times the longer side around each mask."""
    size = inside.shape[-1]
    centre, side = [], []
    for axis in (1, 2):  # columns, then rows
        line = inside.any(axis).float()
        low, high = line.argmax(1), size - line.flip(1).argmax(1)
        centre.append((low + high) / size - 1)
        side.append((high - low) / size)
    scale = context * torch.maximum(*side)
    theta = torch.zeros(len(inside), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = torch.stack(centre, dim=1)
    return theta


def _grid(theta: Float[Tensor, "B 2 3"], shape: torch.Size) -> Float[Tensor, "B S S 2"]:
    return F.affine_grid(theta, [len(theta), 1, *shape[2:]], align_corners=False)


def _misjudge_mask(
    seen: Float[Tensor, "B 4 S S"], generator: torch.Generator
) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B 1 S S"]]:
    """The photo behind the mask, and a mask that is a pixel too wide, too narrow, or right."""
    rgb, alpha = seen[:, :3], seen[:, 3:]
    count = len(seen)
    ground = 0.35 + 0.5 * torch.rand(count, 1, 1, 1, generator=generator)
    ground = (ground + 0.06 * torch.randn(count, 3, 1, 1, generator=generator)).clamp(0, 1)
    photo = rgb * alpha + ground * (1 - alpha)
    kind = torch.rand(count, 1, 1, 1, generator=generator)
    wide, narrow = F.max_pool2d(alpha, 3, 1, 1), -F.max_pool2d(-alpha, 3, 1, 1)
    mask = torch.where(kind < 0.25, wide, torch.where(kind < 0.4, narrow, alpha))
    return photo + 0.01 * torch.randn(photo.shape, generator=generator), mask

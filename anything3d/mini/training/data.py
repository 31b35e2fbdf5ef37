"""What the mini networks learn from. It is rendered once and kept: objects seen alone, whole scenes, and crops of them.

Each set is stored in blocks of safetensors below WORK/data, one file for each block. So a rendering that was stopped
continues at its next block, and a training reads the blocks memory-mapped. Training sets hold training pairs only
(shapes.SEEN). Held-out sets come from other seeds, and half of their objects are of pairs that no training set has.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from anything3d import seed as seeds
from anything3d.errors import InputError
from anything3d.mini.draw import pick, uniform
from anything3d.mini.photo import Photo, render_objects, render_scene, sample_points
from anything3d.mini.scene import AMBIENT, SUN, SUN_AZIMUTH_DEG, SUN_ELEVATION_DEG, Light, Scene, sample_scene
from anything3d.mini.shapes import Object, sample_object
from anything3d.mini.solids import distance
from anything3d.mini.words import COLORS, SHAPES
from anything3d.mini.world import ASPECTS
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.photo.prompt import Prompt
from anything3d.quality.metrics import mask_iou
from anything3d.segment import Segmented, Segmenter, load_segmenter
from anything3d.settings.segment import SegmentConfig
from anything3d.space.camera import Camera, orbit, project

Split = Literal["training", "held-out"]

SEED = 0
VIEWS = 6  # of each object
VIEW_PX = 64
POINTS = 2048  # on the surface of each object
SDF_CELLS = 12  # along each side of the grid of signed distances
ELEVATION_DEG = (-15.0, 80.0)
PHOTO_ELEVATION_DEG = (3.0, 58.0)  # of every other view: what photos of the mini world have
DISTANCE = (1.8, 7.0)  # canonical units; drawn evenly in the logarithm
CONTEXT = (1.1, 1.9)  # side of the picture / longer side of the object in it
SHIFT = 0.05  # of the picture's side, by which the object may be off its middle
SCENE_PX = 256  # longer side
PHOTO_PX = 512  # longer side of the photos that crops are cut from, as `anything3d world` makes them
STUFF = 200  # label of the first plane; the sky has the last one
PROMPTS = 3  # points of each object that SAM is asked at, for crops
PROMPTED_PX = 256  # visible pixels of an object from which on SAM is asked
LEAST_IOU = 0.4  # of a crop's mask with its object; the mask of a crop with less is that of another thing
CUT = SegmentConfig(  # as the pipeline, but crops are small, and several masks of one object are wanted
    source="sam-points",
    max_iou=1.0,
    max_containment=1.0,
    max_per_image=100,
    occluders=False,  # what hides an object is not asked
    crop_size=VIEW_PX,
)
BLOCKS: dict[tuple[str, Split], tuple[int, int]] = {  # blocks, items of each; the items of crops are scenes
    ("objects", "training"): (32, 256),
    ("objects", "held-out"): (1, 256),
    ("scenes", "training"): (24, 128),
    ("scenes", "held-out"): (1, 128),
    ("crops", "training"): (18, 64),
    ("crops", "held-out"): (1, 96),
}


@dataclass(frozen=True, slots=True)
class Objects:
    """N objects, each seen alone from V cameras. Lengths and positions are canonical."""

    rgba: UInt8[Tensor, "N V 4 S S"]  # straight alpha
    depth: Float[Tensor, "N V S S"]  # float16, along -z of the camera; infinite beside the object
    pose: Float[Tensor, "N V 4 4"]
    intrinsics: Float[Tensor, "N V 4"]
    azimuth_deg: Float[Tensor, "N V"]
    elevation_deg: Float[Tensor, "N V"]
    points: Float[Tensor, "N P 3"]  # float16, on the surface
    colors: UInt8[Tensor, "N P 3"]  # of the points, lit
    sdf: Float[Tensor, "N D D D"]  # float16, signed distance at a grid's cells in the unit cube, x y z
    shape: Int[Tensor, "N"]  # index into words.SHAPES
    color: Int[Tensor, "N"]  # index into words.COLORS

    def __len__(self) -> int:
        return len(self.shape)

    def cameras(self, rows: Int[Tensor, "B"], views: Int[Tensor, "B"]) -> Camera:
        return Camera(self.pose[rows, views], self.intrinsics[rows, views])


@dataclass(frozen=True, slots=True)
class Scenes:
    """N photos in the square that SAM sees: at the top left, black beyond."""

    rgb: UInt8[Tensor, "N 3 S S"]
    label: UInt8[Tensor, "N S S"]  # k + 1: object k; STUFF + k: plane k, or the sky; 0: beyond the photo

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Crops:
    """N crops as `segment` cuts them from photos, by masks of the packaged SAM."""

    rgba: UInt8[Tensor, "N 4 S S"]  # the photo, and the mask as alpha
    iou: Float[Tensor, "N"]  # of the mask with the object's visible pixels
    direction: Float[Tensor, "N 3"]  # of unit length, from the object to the camera, in the canonical frame
    sdf: Float[Tensor, "N D D D"]  # as Objects
    shape: Int[Tensor, "N"]  # index into words.SHAPES
    color: Int[Tensor, "N"]  # index into words.COLORS

    def __len__(self) -> int:
        return len(self.shape)


def render_data(name: str, split: Split, work: Path, progress: Callable[[str], None]) -> None:
    """Render the blocks of a set that are not there yet."""
    from safetensors.torch import save_file

    blocks, count = BLOCKS[name, split]
    for block in range(blocks):
        path = _path(work, name, split, block)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = [f"{block * count + row}" for row in range(count)]
        generators = seeds.generators(SEED, f"training/{name}/{split}", ids)
        rows = [row for generator in generators for row in RENDERERS[name](generator, split == "held-out")]
        partial = path.with_suffix(".partial")
        save_file({key: torch.stack([row[key] for row in rows]) for key in rows[0]}, partial)
        partial.rename(path)
        progress(f"rendered {name} ({split}), block {block + 1} of {blocks}")


def load_objects(split: Split, work: Path) -> Objects:
    """The objects of a split, rendered first where they are not there. Raises: InputError("old_data")."""
    return Objects(**_load("objects", split, work, [field.name for field in fields(Objects)]))


def load_scenes(split: Split, work: Path) -> Scenes:
    """The scenes of a split, rendered first where they are not there. Raises: InputError("old_data")."""
    return Scenes(**_load("scenes", split, work, [field.name for field in fields(Scenes)]))


def load_crops(split: Split, work: Path) -> Crops:
    """The crops of a split, rendered and cut first where they are not there. Raises: InputError("old_data")."""
    return Crops(**_load("crops", split, work, [field.name for field in fields(Crops)]))


def _load(name: str, split: Split, work: Path, keys: list[str]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    render_data(name, split, work, lambda line: None)
    paths = [_path(work, name, split, block) for block in range(BLOCKS[name, split][0])]
    parts = [load_file(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if missing := [key for key in keys if key not in part]:
            lacking = ", ".join(missing)
            raise InputError(
                "old_data", f"{path} is of an older version and has no {lacking}; remove all {name}-* there"
            )
    return {key: torch.cat([part[key] for part in parts]) for key in keys}


def _path(work: Path, name: str, split: Split, block: int) -> Path:
    return work / "data" / f"{name}-{split}-{block:03d}.safetensors"


def _render_object(generator: torch.Generator, held_out: bool) -> list[dict[str, Tensor]]:
    item = sample_object(generator, held_out)
    turned = uniform(generator, 0, 360)
    light = _light(turned, generator)
    points, colors = sample_points(item, light, POINTS, generator)
    azimuth = torch.tensor([uniform(generator, -SUN_SPREAD_DEG, SUN_SPREAD_DEG) for _ in range(VIEWS)]) + turned
    elevation = torch.tensor(
        [uniform(generator, *(PHOTO_ELEVATION_DEG if view % 2 else ELEVATION_DEG)) for view in range(VIEWS)]
    )
    camera = _frame(azimuth, elevation, points, generator)
    rgba, depth = render_objects([item], [light], camera, VIEW_PX)
    row = {
        "rgba": (rgba * 255).round().to(torch.uint8),
        "depth": depth.half(),
        "pose": camera.pose,
        "intrinsics": camera.intrinsics,
        "azimuth_deg": azimuth % 360,
        "elevation_deg": elevation,
        "points": points.half(),
        "colors": (colors * 255).round().to(torch.uint8),
        "sdf": _sdf(item).half(),
        "shape": torch.tensor(SHAPES.index(item.shape)),
        "color": torch.tensor(COLORS.index(item.color)),
    }
    return [row]


SUN_SPREAD_DEG = 180.0  # of the views from where the sun's azimuth is counted: objects are seen from all sides


def _light(azimuth: float, generator: torch.Generator) -> Light:
    """A sun as scenes have it, for a photo taken from `azimuth`."""
    one = torch.ones(1)
    sun = orbit(
        one * (azimuth + uniform(generator, *SUN_AZIMUTH_DEG)), one * uniform(generator, *SUN_ELEVATION_DEG), one, one
    )
    x, y, z = sun.pose[0, :3, 3].tolist()
    return Light((x, y, z), uniform(generator, *SUN), uniform(generator, *AMBIENT))


def _frame(
    azimuth: Float[Tensor, "V"], elevation: Float[Tensor, "V"], points: Float[Tensor, "P 3"], generator: torch.Generator
) -> Camera:
    """Cameras from these directions at random distances, framed as crops are: around what is seen, with some room."""
    low, high = (torch.tensor(value).log() for value in DISTANCE)
    away = (low + (high - low) * torch.rand(len(azimuth), generator=generator)).exp()
    pose = orbit(azimuth, elevation, away, torch.full_like(away, 40.0)).pose
    unit = Camera(pose, torch.tensor([1.0, 1.0, 0.5, 0.5]).expand(len(pose), 4))
    where, _ = project(unit, points.expand(len(pose), -1, -1))
    least, most = where.amin(1), where.amax(1)
    context = CONTEXT[0] + (CONTEXT[1] - CONTEXT[0]) * torch.rand(len(pose), generator=generator)
    focal = 1 / (context * (most - least).amax(1))
    shift = SHIFT * (2 * torch.rand(len(pose), 2, generator=generator) - 1)
    centre = 0.5 + shift - ((least + most) / 2 - 0.5) * focal[:, None]
    return Camera(pose, torch.cat([focal[:, None], focal[:, None], centre], dim=1))


def _sdf(item: Object) -> Float[Tensor, "D D D"]:
    axis = (torch.arange(SDF_CELLS) + 0.5) / SDF_CELLS - 0.5
    return distance(item.body, torch.cartesian_prod(axis, axis, axis).T.contiguous()).view([SDF_CELLS] * 3)


def _render_scene(generator: torch.Generator, held_out: bool) -> list[dict[str, Tensor]]:
    _, photo = _photo(generator, held_out, SCENE_PX)
    height, width = photo.label.shape[1:]
    rgb = torch.zeros(3, SCENE_PX, SCENE_PX, dtype=torch.uint8)
    label = torch.zeros(SCENE_PX, SCENE_PX, dtype=torch.uint8)
    rgb[:, :height, :width] = (photo.rgb[0] * 255).round().to(torch.uint8)
    label[:height, :width] = torch.where(photo.label[0] > 0, photo.label[0], STUFF + photo.part[0]).to(torch.uint8)
    return [{"rgb": rgb, "label": label}]


def _photo(generator: torch.Generator, held_out: bool, longer: int) -> tuple[Scene, Photo]:
    aspect = pick(generator, ASPECTS)
    scene = sample_scene(generator, held_out, aspect)
    short = round(longer * min(aspect, 1 / aspect))
    height, width = (short, longer) if aspect >= 1 else (longer, short)
    return scene, render_scene(scene, height, width)


def _render_crops(generator: torch.Generator, held_out: bool) -> list[dict[str, Tensor]]:
    """The crops of a scene: SAM's masks from random points of each object that the pipeline selects.

    Left out are those that show another object more than the one that was pointed at, or have less than LEAST_IOU.
    """
    scene, photo = _photo(generator, held_out, PHOTO_PX)
    rgb, label = (photo.rgb[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous(), photo.label[0]
    prompts = []
    for index in range(len(scene.objects)):
        seen = (label == index + 1).nonzero()
        if len(seen) >= PROMPTED_PX:
            chosen = seen[torch.randint(len(seen), (PROMPTS,), generator=generator)].tolist()
            prompts += [Prompt(index, (float(x), float(y))) for y, x in chosen]
    rows = []
    for prompt, outcome in zip(prompts, _segmenter()([rgb], [prompts])[0], strict=True):
        if not isinstance(outcome, Segmented):
            continue
        inside = mask.decode(outcome.mask.counts, *label.shape)
        shown = torch.bincount(label[inside], minlength=len(scene.objects) + 1)[1:]
        iou = mask_iou(inside[None], (label == prompt.index + 1)[None])[0]
        if int(shown.argmax()) == prompt.index and iou >= LEAST_IOU:
            placed = scene.objects[prompt.index]
            item = placed.item
            rows.append(
                {
                    "rgba": outcome.crop.rgba.permute(2, 0, 1).contiguous(),
                    "iou": iou,
                    "direction": F.normalize(placed.seen_by(scene.camera).pose[0, :3, 3], dim=0),
                    "sdf": _sdf(item).half(),
                    "shape": torch.tensor(SHAPES.index(item.shape)),
                    "color": torch.tensor(COLORS.index(item.color)),
                }
            )
    return rows


@cache
def _segmenter() -> Segmenter:
    return load_segmenter(CUT, Place())


RENDERERS: dict[str, Callable[[torch.Generator, bool], list[dict[str, Tensor]]]] = {
    "objects": _render_object,
    "scenes": _render_scene,
    "crops": _render_crops,
}

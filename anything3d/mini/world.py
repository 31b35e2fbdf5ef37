"""The mini world as a shard: procedural photos in SA-1B's exact format, and the truth about every object beside it.

OUT.tar         ustar: `./`, then `./sa_<id>.jpg` and `.json` in random order, times and owners 0
OUT.truth/      truth.json (cameras, captions, masks; see `anything3d.truth`), and by object or image:
  points/       <object>.ply: 8192 points of the surface with their colours, canonical frame
  views/        <object>.png: eight views around the object alone, side by side, RGBA
  depth/        <image>.png: 16 bit, distance along the camera's axis in `depth_unit` scene units; 0 where there is none
  masks/        <image>.png: label image; 0 for no object, i + 1 for the i-th of the image's objects in truth.json

The same arguments give the same bytes, whatever the number of threads.
"""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from anything3d import mask as masks
from anything3d.camera import POINT_E_FOV_DEG, Camera, angles, orbit
from anything3d.cloud import Cloud, to_ply
from anything3d.errors import ConfigError
from anything3d.image import encode_png
from anything3d.mini.draw import integer
from anything3d.mini.photo import Photo, render_objects, render_scene, sample_points
from anything3d.mini.sa1b import Region, annotate
from anything3d.mini.scene import Scene, sample_scene
from anything3d.mini.shapes import HELD_OUT_PAIRS
from anything3d.mini.words import caption
from anything3d.seed import generators

MAX_SCENES = 10_000  # of a shard; ids of neighbouring seeds must not meet
MAX_SEED = 99_999
FIRST_IMAGE = {False: 1_000_000_000, True: 2_000_000_000}  # of the training and the held-out split
JPEG_QUALITY = 92
MIN_VISIBLE_PX = 64  # of an object; with less it has no annotation and no truth
MIN_PART_PX = 64
SPECK_PX = 1  # side of the smallest mask
POINTS = 8192
DEPTH_UNIT = 0.001  # scene units
VIEWS = 8
VIEW_PX = 128
VIEW_ELEVATION_DEG = 20.0
VIEW_DISTANCE = 2.7  # canonical units; a unit cube stays in sight from everywhere
EMPTY_FROM = 50  # scenes; a shard of that many has one photo without any annotation


@dataclass(frozen=True, slots=True)
class Taken:
    """One photo of the shard and what is true of it."""

    image_id: str
    jpg: bytes
    json: bytes
    truth: dict[str, object]
    files: dict[str, bytes]  # of the truth, by path


def write_world(
    out: Path,
    *,
    scenes: int,
    seed: int,
    held_out: bool = False,
    size: int = 512,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the shard `out` and its truth; `progress` is told the number of photos taken.

    Files appear under their names when they are whole, the truth first.

    Raises: ConfigError if `scenes`, `seed` or `size` is out of range.
    """
    if not (1 <= scenes <= MAX_SCENES and 0 <= seed <= MAX_SEED and 64 <= size <= 4096):
        allowed = f"1 to {MAX_SCENES}, 0 to {MAX_SEED}, 64 to 4096"
        raise ConfigError("world", f"{scenes} scenes, seed {seed}, {size} px; {allowed} are allowed")
    folder = out.with_suffix(".truth")
    building = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    members: dict[str, bytes] = {}
    images: dict[str, object] = {}
    first_id = seed * 1_000_000
    for number in range(scenes):
        empty = scenes >= EMPTY_FROM and number == scenes // 2
        taken, count = take(number, seed, held_out, size, first_id, empty)
        first_id += count
        members |= {f"./{taken.image_id}.jpg": taken.jpg, f"./{taken.image_id}.json": taken.json}
        images[taken.image_id] = taken.truth
        for path, data in taken.files.items():
            (building / path).parent.mkdir(parents=True, exist_ok=True)
            (building / path).write_bytes(data)
        if progress:
            progress(number + 1)
    (building / "truth.json").write_text(json.dumps(_head(out.stem, images), indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    partial = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    partial.write_bytes(_tar(members, generators(seed, "shuffle", [out.stem])[0]))
    partial.rename(out)


def take(number: int, seed: int, held_out: bool, size: int, first_id: int, empty: bool) -> tuple[Taken, int]:
    """Photo `number` of a shard, and how many annotations it has; those are numbered from `first_id`."""
    generator = generators(seed, "held-out" if held_out else "training", [str(number)])[0]
    scene = sample_scene(generator, held_out)
    photo = render_scene(scene, size, size)
    image_id = FIRST_IMAGE[held_out] + seed * MAX_SCENES + number
    name = f"sa_{image_id}"
    regions = [] if empty else _regions(photo, generator)
    if regions:
        document, places = annotate(regions, image_id, first_id, generator)
    else:
        image = {"image_id": image_id, "width": size, "height": size, "file_name": f"{name}.jpg"}
        document, places = json.dumps({"image": image, "annotations": []}).encode(), {}
    truths: list[dict[str, object]] = []
    files: dict[str, bytes] = {}
    for owner, place in sorted(places.items(), key=lambda entry: entry[1]):
        truth, own = _object_truth(scene, photo, owner, f"{name}-{place:04d}", generator)
        truths.append({"annotation": place, **truth})
        files |= own
    labels = torch.zeros_like(photo.label[0], dtype=torch.uint8)
    for index, (owner, _) in enumerate(sorted(places.items(), key=lambda entry: entry[1])):
        labels[photo.label[0] == owner + 1] = index + 1
    files |= {f"masks/{name}.png": encode_png(labels[..., None]), f"depth/{name}.png": _depth_png(photo)}
    truth_of_image = {"width": size, "height": size, "objects": truths}
    return Taken(name, _jpeg(photo), document, truth_of_image, files), len(regions)


def _regions(photo: Photo, generator: torch.Generator) -> list[Region]:
    """Objects, parts, the ground, and a speck or two: what SAM would have found."""
    label, part = photo.label[0], photo.part[0]
    found: list[Region] = []
    for owner in range(photo.silhouettes.shape[1]):
        visible = label == owner + 1
        if int(visible.sum()) < MIN_VISIBLE_PX:
            continue
        found.append(Region(visible, owner))
        parts = [visible & (part == index) for index in part[visible].unique().tolist()]
        found += [Region(one, None) for one in parts if len(parts) > 1 and int(one.sum()) >= MIN_PART_PX]
    stuff = [(label == 0) & (part == index) for index in part[label == 0].unique().tolist()]
    found += [Region(one, None) for one in stuff if int(one.sum()) >= MIN_PART_PX]
    for _ in range(integer(generator, 1, 2)):
        found.append(Region(_speck(label.shape, generator), None))
    return found


def _speck(shape: torch.Size, generator: torch.Generator) -> Bool[Tensor, "H W"]:
    mask = torch.zeros(shape, dtype=torch.bool)
    y, x = (integer(generator, 0, length - SPECK_PX) for length in shape)
    mask[y : y + SPECK_PX, x : x + SPECK_PX] = True
    return mask


def _object_truth(
    scene: Scene, photo: Photo, owner: int, object_id: str, generator: torch.Generator
) -> tuple[dict[str, object], dict[str, bytes]]:
    """What truth.json says of one object, and its files."""
    placed = scene.objects[owner]
    camera = placed.seen_by(scene.camera)
    light = scene.light.turned(placed.yaw_deg)
    azimuth, elevation = angles(camera)
    rgba, _ = render_objects([placed.item], [light], view_cameras(float(azimuth)), VIEW_PX)
    points, colors = sample_points(placed.item, light, POINTS, generator)
    visible = photo.label[0] == owner + 1
    strip = (rgba * 255).round().to(torch.uint8).permute(2, 0, 3, 1).reshape(VIEW_PX, VIEWS * VIEW_PX, 4)
    item = placed.item
    paths = {"points": f"points/{object_id}.ply", "views": f"views/{object_id}.png"}
    truth = {
        "shape": item.shape,
        "color": item.color,
        "caption": caption(item.shape, item.color),
        "azimuth_deg": float(azimuth),
        "elevation_deg": float(elevation),
        "distance": float(camera.pose[0, :3, 3].norm()),
        "camera": {"pose": camera.pose[0].tolist(), "intrinsics": camera.intrinsics[0].tolist()},
        "visible_share": int(visible.sum()) / max(1, int(photo.silhouettes[0, owner].sum())),
        "mask_rle": masks.encode(visible),
        "held_out": (item.shape, item.color) in HELD_OUT_PAIRS,
        **paths,
    }
    ply = to_ply(Cloud(points[None], colors[None]))
    return truth, {paths["points"]: ply, paths["views"]: encode_png(strip.contiguous())}


def view_cameras(azimuth_deg: float) -> Camera:
    """The eight novel views: around the object from the photo's azimuth on."""
    around = azimuth_deg + torch.arange(VIEWS) * (360 / VIEWS)
    same = torch.ones(VIEWS)
    return orbit(around, same * VIEW_ELEVATION_DEG, same * VIEW_DISTANCE, same * POINT_E_FOV_DEG)


def _head(shard: str, images: dict[str, object]) -> dict[str, object]:
    return {
        "format": "anything3d-truth-1",
        "shard": shard,
        "depth_unit": DEPTH_UNIT,
        "views": {
            "count": VIEWS,
            "size": VIEW_PX,
            "azimuth_offsets_deg": [360 / VIEWS * view for view in range(VIEWS)],
            "elevation_deg": VIEW_ELEVATION_DEG,
            "distance": VIEW_DISTANCE,
            "fov_deg": POINT_E_FOV_DEG,
        },
        "images": images,
    }


def _jpeg(photo: Photo) -> bytes:
    pixels = (photo.rgb[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    out = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _depth_png(photo: Photo) -> bytes:
    steps = torch.nan_to_num(photo.depth[0] / DEPTH_UNIT, nan=0.0, posinf=0.0).clamp(0, 65535).round()
    out = io.BytesIO()
    Image.fromarray(steps.to(torch.uint16).numpy()).save(out, "PNG")
    return out.getvalue()


def _tar(members: dict[str, bytes], generator: torch.Generator) -> bytes:
    """The members in random order behind an entry for the folder, with nothing in them that changes from run to run."""
    names = sorted(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("./")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for index in torch.randperm(len(names), generator=generator).tolist():
            member = tarfile.TarInfo(names[index])
            member.size = len(members[names[index]])
            tar.addfile(member, io.BytesIO(members[names[index]]))
    return out.getvalue()

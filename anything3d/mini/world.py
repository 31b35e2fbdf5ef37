"""The mini world as data: SA-1B shards of random scenes, with the truth about every object beside them.

OUT.truth/ lies beside OUT.tar. It holds truth.json (read by quality/truth_file.py), points/ (surface points of
each object, lit as in its scene), views/ (eight pictures of each object alone), solids/ (its surface as a closed mesh),
and depth/ and masks/ (one picture for
each photo). An object is in the truth if at least 64 of its pixels can be seen. The same arguments give the same bytes
on the same kind of machine.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from anything3d import seed as seeds
from anything3d.errors import ConfigError
from anything3d.mini.annotations import Annotated, annotate, regions_of, to_json
from anything3d.mini.draw import integer, pick
from anything3d.mini.former import FILES, check_replaceable, put_in_place
from anything3d.mini.photo import Photo, render_objects, render_scene, sample_points
from anything3d.mini.scene import Placed, Scene, sample_scene
from anything3d.mini.shapes import HELD_OUT_PAIRS, SYMMETRY_DEG
from anything3d.mini.trace import closed_surface
from anything3d.mini.words import COLORS, SHAPES, caption
from anything3d.photo.image import encode_png
from anything3d.quality.truth_file import FORMAT
from anything3d.quality.world import MINI
from anything3d.settings.reconstruct import POINT_E_FOV_DEG
from anything3d.space.camera import Camera, angles, orbit
from anything3d.space.cloud import Cloud, to_ply
from anything3d.space.mesh import to_glb

SPLITS = ("training", "held-out")
BLOCK = 100_000  # image ids that belong to one seed and split
BLOCKS = 99_990  # before ids would need an eleventh digit
IDS_PER_IMAGE = 100  # annotation ids set aside for an image, on average
JPEG_QUALITY = 92
ASPECTS = (1.0, 1.0, 4 / 3, 3 / 2, 3 / 4, 2 / 3)  # width / height of photos, each as likely
ZERO_FROM = 50  # scenes; in such a shard one photo shows nothing and has no annotation
POINTS = 8192  # on each object's surface
VIEWS, VIEW_PX, VIEW_ELEVATION_DEG = 8, 128, 20.0
VIEW_DISTANCE = 2.7  # canonical units; a unit cube stays in sight from everywhere
DEPTH_STEP = 0.001  # scene units per level of the depth pictures


@dataclass(frozen=True, slots=True)
class Made:
    """One photo of the world as files: those of the shard, those of the truth, and the photo's entry in truth.json."""

    members: dict[str, bytes]
    files: dict[str, bytes]
    record: dict[str, Any]
    annotations: int


def write_world(
    out: Path,
    *,
    scenes: int,
    seed: int,
    held_out: bool = False,
    size: int = 512,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write OUT.tar with `scenes` photos of longer side `size` pixels, and its truth, replacing its own earlier ones.

    Held-out scenes come from other seeds than training scenes and show pairs of shape and colour that those never
    show (shapes.HELD_OUT_PAIRS). `progress` is told the number of finished scenes. Files appear when all are finished.

    Raises: ConfigError("world_range") if an argument is out of range; ConfigError("not_ours") if OUT.tar or OUT.truth/
    is there and not of the mini world.
    """
    if not (out.suffix == ".tar" and 1 <= scenes <= BLOCK and seed >= 0 and size >= 64):
        raise ConfigError(
            "world_range",
            f"out={out} scenes={scenes} seed={seed} size={size}; wanted: a name that ends in .tar, 1 to {BLOCK} "
            "scenes, a seed >= 0, at least 64 pixels",
        )
    plan = _plan()
    check_replaceable(out, plan["depth"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}-") as name, _one_thread():
        partial = Path(name)
        names, images = _write_scenes(partial, scenes, seed, held_out, size, progress)
        vocabulary = {"shapes": SHAPES, "colors": COLORS}
        head = {"format": FORMAT, "world": MINI, "shard": out.name, "vocabulary": vocabulary}
        truth = {**head, **plan, "images": images}
        (partial / "truth" / "truth.json").write_text(json.dumps(truth), encoding="ascii")
        _pack(partial / "members", _shuffle(names, seed), partial / "shard.tar")
        put_in_place(partial, out, plan["depth"])


def image_ids(scenes: int, seed: int, held_out: bool) -> range:
    """Ids of a shard's photos; no two splits share one, nor do two seeds below 49,995."""
    first = (2 * seed + held_out) % BLOCKS * BLOCK + 1
    return range(first, first + scenes)


def _write_scenes(
    folder: Path, scenes: int, seed: int, held_out: bool, size: int, progress: Callable[[int], None] | None
) -> tuple[list[str], dict[str, Any]]:
    """Write every file but the shard itself; the shard's member names and the truth's entries by image."""
    names: list[str] = []
    images: dict[str, Any] = {}
    ids = image_ids(scenes, seed, held_out)
    empty = integer(torch.Generator().manual_seed(seed), 0, scenes - 1) if scenes >= ZERO_FROM else None
    next_id = ids[0] * IDS_PER_IMAGE
    for done, image_id in enumerate(ids, start=1):
        generator = seeds.generators(seed, f"world/{SPLITS[held_out]}", [str(image_id)])[0]
        aspect = pick(generator, ASPECTS)
        scene = sample_scene(generator, held_out, aspect)
        width, height = (size, round(size / aspect)) if aspect >= 1 else (round(size * aspect), size)
        if done - 1 == empty:
            scene = replace(scene, objects=())
        made = _make(scene, (height, width), image_id, next_id, generator)
        next_id += made.annotations
        _write_files(folder / "members", made.members)
        _write_files(folder / "truth", made.files)
        names += made.members
        images[f"sa_{image_id}"] = made.record
        if progress:
            progress(done)
    return names, images


def _make(scene: Scene, size: tuple[int, int], image_id: int, annotation_id: int, generator: torch.Generator) -> Made:
    """A scene's photo, annotations and truth."""
    height, width = size
    photo = render_scene(scene, height, width)
    regions = regions_of(photo.label[0], photo.part[0], generator) if scene.objects else []
    annotated = annotate(regions, annotation_id, generator) if regions else Annotated([], {})
    name = f"sa_{image_id}"
    members = {
        f"{name}.jpg": _jpeg(photo.rgb[0]),
        f"{name}.json": to_json(annotated.records, image_id, width, height),
    }
    files = {f"depth/{name}.png": _depth_png(photo.depth[0]), f"masks/{name}.png": _label_png(photo, annotated)}
    objects = []
    for index in sorted(annotated.objects):
        annotation = annotated.objects[index]
        stem = f"{name}-{annotation:04d}"
        record = _object_record(scene, index, photo, annotated.records[annotation]["segmentation"]["counts"])
        placed = scene.objects[index]
        light = scene.light.turned(placed.yaw_deg)
        points, colors = sample_points(placed.item, light, POINTS, generator)
        record |= {"annotation": annotation, "points": f"points/{stem}.ply", "views": f"views/{stem}.png"}
        record["solid"] = f"solids/{stem}.glb"
        files[record["points"]] = to_ply(Cloud(points[None], colors[None]))
        rgba, _ = render_objects([placed.item], [light], _view_cameras(record["azimuth_deg"]), VIEW_PX)
        files[record["views"]] = encode_png(_to_uint8(torch.cat(list(rgba), dim=-1)))
        files[record["solid"]] = to_glb(closed_surface(placed.item.body))
        record["sha256"] = {name: hashlib.sha256(files[record[name]]).hexdigest() for name in FILES}
        objects.append(record)
    return Made(members, files, {"width": width, "height": height, "objects": objects}, len(annotated.records))


def _object_record(scene: Scene, index: int, photo: Photo, counts: str) -> dict[str, Any]:
    """What truth.json says of an object, but for its annotation and files."""
    placed: Placed = scene.objects[index]
    item = placed.item
    camera = placed.seen_by(scene.camera)
    azimuth, elevation = angles(camera)
    silhouette = int(photo.silhouettes[0, index].sum())
    return {
        "shape": item.shape,
        "color": item.color,
        "caption": caption(item.shape, item.color),
        "azimuth_deg": float(azimuth),
        "elevation_deg": float(elevation),
        "distance": float(camera.pose[0, :3, 3].norm()),
        "scale": placed.scale,  # scene units per canonical unit: what turns the depth picture into canonical units
        "camera": {"pose": camera.pose[0].tolist(), "intrinsics": camera.intrinsics[0].tolist()},
        "visible_share": int((photo.label[0] == index + 1).sum()) / silhouette,
        "mask_rle": counts,
        "symmetry_deg": SYMMETRY_DEG[item.shape],
        "held_out": (item.shape, item.color) in HELD_OUT_PAIRS,
    }


def _plan() -> dict[str, Any]:
    """Cameras of the novel views and unit of the depth pictures, as in truth.json."""
    views = {
        "count": VIEWS,
        "size": VIEW_PX,
        "azimuth_offsets_deg": _offsets().tolist(),
        "elevation_deg": VIEW_ELEVATION_DEG,
        "distance": VIEW_DISTANCE,
        "fov_deg": POINT_E_FOV_DEG,
    }
    meaning = (
        f"16-bit grey, {DEPTH_STEP} scene units per level along -z of the camera; 0: nothing nearer than "
        f"{65535 * DEPTH_STEP} units. Divide by an object's scale for canonical units."
    )
    return {"views": views, "depth": {"step": DEPTH_STEP, "meaning": meaning}}


def _offsets() -> Float[Tensor, "V"]:
    return torch.arange(VIEWS) * (360.0 / VIEWS)


def _view_cameras(azimuth_deg: float) -> Camera:
    one = torch.ones(VIEWS)
    return orbit(azimuth_deg + _offsets(), one * VIEW_ELEVATION_DEG, one * VIEW_DISTANCE, one * POINT_E_FOV_DEG)


def _jpeg(rgb: Float[Tensor, "3 H W"]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(_to_uint8(rgb).numpy()).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _depth_png(depth: Float[Tensor, "H W"]) -> bytes:
    levels = (depth / DEPTH_STEP).round()
    levels = torch.where(levels <= 65535, levels, 0.0).to(torch.int32)
    out = io.BytesIO()
    Image.fromarray(levels.numpy().astype("uint16")).save(out, "PNG", compress_level=6)
    return out.getvalue()


def _label_png(photo: Photo, annotated: Annotated) -> bytes:
    """0 where no object of the truth is, else its index in the truth's list + 1."""
    label = torch.zeros_like(photo.label[0], dtype=torch.uint8)
    for number, index in enumerate(sorted(annotated.objects), start=1):
        label[photo.label[0] == index + 1] = number
    return encode_png(label[..., None])


def _to_uint8(planes: Float[Tensor, "C H W"]) -> Tensor:
    return (planes * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _shuffle(names: list[str], seed: int) -> list[str]:
    """In an order given by the seed, no photo beside its annotations (which cannot be helped with one photo only)."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = [names[index] for index in torch.randperm(len(names), generator=generator).tolist()]
        stems = [name.split(".")[0] for name in order]
        if len(names) == 2 or all(a != b for a, b in pairwise(stems)):
            return order


def _pack(folder: Path, names: list[str], tar: Path) -> None:
    """USTAR with no trace of when and by whom it was made; the folder's entry comes first."""
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as shard:
        top = tarfile.TarInfo("./")
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        shard.addfile(top)
        for name in names:
            data = (folder / name).read_bytes()
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrix products may round differently with the number of threads; files must not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

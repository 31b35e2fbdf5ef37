"""Ground truth beside a shard: it is read, checked, and matched with masks. docs/mini-world.md has the format.

`truth.json` (format `anything3d-truth-2`) lists the objects of every image. Each object has its surface (points as PLY,
or a mesh as GLB), views of it alone, and the sha256 of both files. So the bytes of truth.json stand for the whole
truth. Azimuth and elevation say where the photo's camera stands in the object's own canonical frame (camera.py).
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from anything3d.errors import InputError, NumericsError, SourceError
from anything3d.photo import mask as masks
from anything3d.photo.image import decode_png
from anything3d.quality.metrics import sample_surface
from anything3d.space.camera import Camera, orbit
from anything3d.space.cloud import from_ply
from anything3d.space.mesh import from_glb

FORMAT = "anything3d-truth-2"
FORMER = "anything3d-truth-1"  # without the sha256 of its files
MINI = "mini"  # `world` of what the mini world's own truth says; other truths name none
SHA256 = re.compile(r"[0-9a-f]{64}")
MATCH_IOU = 0.5  # of a mask with the true one, from which on it is that object's; COCO's lowest threshold
RIGID = 1e-3  # how far a pose's rotation may be from orthonormal, per entry
MOST_VIEWS = 64  # of one object
MESH_POINTS = 8192  # taken from a true mesh's surface; as many as the mini world's truth has
NO_SYMMETRY_DEG = 360.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The cameras of the novel views: on a sphere, at these angles beyond the photo's azimuth."""

    size_px: int
    azimuth_offsets_deg: tuple[float, ...]
    elevation_deg: float
    distance: float  # canonical units
    fov_deg: float

    def cameras(self, azimuth_deg: float) -> Camera:
        """In the true canonical frame, for a photo taken from `azimuth_deg`."""
        azimuths = torch.tensor(self.azimuth_offsets_deg) + azimuth_deg
        elevation, distance, fov = (
            torch.full_like(azimuths, value) for value in (self.elevation_deg, self.distance, self.fov_deg)
        )
        return orbit(azimuths, elevation, distance, fov)


@dataclass(frozen=True, slots=True)
class TrueObject:
    """One object of an image. `surface` and `views` are paths relative to truth.json."""

    annotation: int  # index into the annotations of the image's JSON
    shape: str  # empty if unknown, as are the next two
    color: str
    caption: str
    azimuth_deg: float  # of the photo's camera in the canonical frame
    elevation_deg: float
    distance: float  # canonical units
    camera: Camera  # the photo's; intrinsics are fractions of the photo
    visible_share: float  # of the silhouette that nothing else covers, 0..1
    mask: str  # compressed RLE of the visible part
    surface: str  # canonical frame
    surface_kind: Literal["points", "mesh"]  # PLY or GLB
    views: str
    surface_sha256: str
    views_sha256: str
    view_cameras: Camera | None  # of the views, canonical frame; None: those of the view plan
    symmetry_deg: float  # smallest turn about y that leaves the shape as it is; 0: any turn, 360: none
    held_out: bool  # not among what the mini networks were trained on


@dataclass(frozen=True, slots=True)
class TrueImage:
    """One image and what can be seen on it."""

    width: int
    height: int
    objects: tuple[TrueObject, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that captions of this world may use. Both are empty where the truth does not say them."""

    shapes: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Truth:
    """A shard's ground truth; images by id."""

    shard: str
    plan: ViewPlan
    images: dict[str, TrueImage]
    vocabulary: Vocabulary = Vocabulary()
    world: str = ""  # MINI if it is of the mini world, which the packaged networks know


@dataclass(frozen=True, slots=True)
class Target:
    """What one object should look like."""

    points: Float[Tensor, "N 3"]  # on the surface, canonical frame
    views: Float[Tensor, "V 4 S S"]  # RGBA in [0, 1], straight alpha
    cameras: Camera  # of the views, canonical frame
    azimuth_deg: float  # of the photo's camera
    elevation_deg: float
    symmetry_deg: float  # as in TrueObject


def read(data: bytes) -> Truth:
    """The contents of truth.json.

    Raises: SourceError("bad_truth") that names the place and the value, if anything is missing or out of range.
    """
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError("bad_truth", f"truth.json is not JSON: {error}") from error
    if (found := take(root, "format", str, "truth")) != FORMAT:
        old = (
            "; it lacks the sha256 of its files: write the truth again (`anything3d world`)" if found == FORMER else ""
        )
        raise SourceError("bad_truth", f"format is {found!r}, this library reads {FORMAT!r}{old}")
    images = take(root, "images", dict, "truth")
    return Truth(
        shard=take(root, "shard", str, "truth"),
        plan=_view_plan(take(root, "views", dict, "truth")),
        images={name: _true_image(record, str(name)) for name, record in images.items()},
        vocabulary=_vocabulary(take(root, "vocabulary", dict, "truth")) if "vocabulary" in root else Vocabulary(),
        world=take(root, "world", str, "truth") if "world" in root else "",
    )


def is_mini_world(data: bytes) -> bool:
    """Whether the contents of truth.json say that it is of the mini world; damaged ones do not, and are no error."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(root, dict) and root.get("world") == MINI


def mask_ious(image: TrueImage, mask: Bool[Tensor, "H W"]) -> Float[Tensor, "N"]:
    """IoU of `mask` with the true mask of every object of `image`, in their order.

    Raises: SourceError if the mask's size is not the image's, or a true mask is damaged.
    """
    if mask.shape != (image.height, image.width):
        raise SourceError("bad_truth", f"mask of {tuple(mask.shape)} px for a photo of {image.height} x {image.width}")
    ious = []
    for item in image.objects:
        with _blamed(item.caption or "an object"):
            true = masks.decode(item.mask, image.height, image.width).to(mask.device)
        ious.append(float((true & mask).sum()) / max(1, int((true | mask).sum())))
    return torch.tensor(ious)


def match(image: TrueImage, mask: Bool[Tensor, "H W"]) -> int | None:
    """Index of the object that `mask` shows; None if none overlaps it by an IoU of 0.5 or more."""
    ious = mask_ious(image, mask)
    if len(ious) == 0 or float(ious.max()) < MATCH_IOU:
        return None
    return int(ious.argmax())


def target(plan: ViewPlan, item: TrueObject, surface: bytes, views_png: bytes) -> Target:
    """The object's surface points and novel views, from the contents of its two files.

    Raises: SourceError if either file is broken, has another sha256, or is not of the size that `plan` and the object's
    cameras say.
    """
    files = ((item.surface, surface, item.surface_sha256), (item.views, views_png, item.views_sha256))
    for path, data, sha256 in files:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise SourceError(
                "bad_truth", f"{path} is not the file that truth.json names by its sha256; write the truth again"
            )
    cameras = plan.cameras(item.azimuth_deg) if item.view_cameras is None else item.view_cameras
    with _blamed(item.views):
        strip = decode_png(views_png)
    n, size = len(cameras), plan.size_px
    if strip.shape != (size, n * size, 4):
        raise SourceError("bad_truth", f"{item.views} is {tuple(strip.shape)}, expected {(size, n * size, 4)}")
    views = strip.reshape(size, n, size, 4).permute(1, 3, 0, 2).float() / 255
    with _blamed(item.surface):
        points = _surface_points(item, surface)
    return Target(points, views, cameras, item.azimuth_deg, item.elevation_deg, item.symmetry_deg)


def _surface_points(item: TrueObject, surface: bytes) -> Float[Tensor, "N 3"]:
    """The points of a PLY, or MESH_POINTS of a GLB's surface: of equal bytes always the same."""
    if item.surface_kind == "points":
        return from_ply(surface).points[0]
    mesh = from_glb(surface)
    try:
        return sample_surface(mesh.vertices, mesh.faces, MESH_POINTS, torch.Generator().manual_seed(0))
    except NumericsError as error:
        raise SourceError("bad_truth", f"{item.surface} has no surface: {len(mesh.faces)} triangles") from error


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """What is wrong with a file of the truth is no fault of an item."""
    try:
        yield
    except InputError as error:
        raise SourceError("bad_truth", f"{what}: {error}") from error


def take(record: object, name: str, kind: type[T], where: str) -> T:
    """`record[name]`, checked to be of `kind`."""
    if not isinstance(record, dict) or name not in record:
        raise SourceError("bad_truth", f"{where} has no {name!r}")
    return checked(record[name], kind, f"{where}.{name}")


def checked(value: object, kind: type[T], where: str) -> T:
    """`value` if it is of `kind`; an integer is also a float, a boolean only a boolean, a float is finite."""
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SourceError("bad_truth", f"{where} is {str(value)[:80]!r}, expected {kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SourceError("bad_truth", f"{where} is {value}, expected a finite number")
    return value


def _number(record: object, name: str, low: float, high: float, where: str) -> float:
    value = take(record, name, float, where)
    if not low <= value <= high:
        raise SourceError("bad_truth", f"{where}.{name} is {value}, allowed are {low} to {high}")
    return value


def _whole(record: object, name: str, low: int, high: int, where: str) -> int:
    value = take(record, name, int, where)
    if not low <= value <= high:
        raise SourceError("bad_truth", f"{where}.{name} is {value}, allowed are {low} to {high}")
    return value


def _numbers(values: object, count: int, where: str) -> tuple[float, ...]:
    row = checked(values, list, where)
    if len(row) != count:
        raise SourceError("bad_truth", f"{where} has {len(row)} values, expected {count}")
    return tuple(checked(value, float, f"{where}[{index}]") for index, value in enumerate(row))


def _vocabulary(record: dict[str, object]) -> Vocabulary:
    shapes, colors = (
        tuple(checked(word, str, f"vocabulary.{name}") for word in take(record, name, list, "vocabulary"))
        for name in ("shapes", "colors")
    )
    return Vocabulary(shapes, colors)


def _view_plan(record: dict[str, object]) -> ViewPlan:
    count = _whole(record, "count", 1, MOST_VIEWS, "views")
    return ViewPlan(
        size_px=_whole(record, "size", 8, 2048, "views"),
        azimuth_offsets_deg=_numbers(record.get("azimuth_offsets_deg"), count, "views.azimuth_offsets_deg"),
        elevation_deg=_number(record, "elevation_deg", -89.9, 89.9, "views"),
        distance=_number(record, "distance", 0.9, 100.0, "views"),
        fov_deg=_number(record, "fov_deg", 1.0, 170.0, "views"),
    )


def _true_image(record: object, where: str) -> TrueImage:
    objects = take(record, "objects", list, where)
    return TrueImage(
        width=_whole(record, "width", 1, 65535, where),
        height=_whole(record, "height", 1, 65535, where),
        objects=tuple(_true_object(item, f"{where}.objects[{index}]") for index, item in enumerate(objects)),
    )


def _true_object(item: object, where: str) -> TrueObject:
    record = checked(item, dict, where)
    surface_kind: Literal["points", "mesh"] = "mesh" if "mesh" in record else "points"
    if surface_kind == "mesh" and "points" in record:
        raise SourceError("bad_truth", f"{where} has both 'points' and 'mesh'; give one")
    return TrueObject(
        annotation=_whole(record, "annotation", 0, 2**31, where),
        shape=take(record, "shape", str, where),
        color=take(record, "color", str, where),
        caption=take(record, "caption", str, where),
        azimuth_deg=_number(record, "azimuth_deg", -360.0, 360.0, where),
        elevation_deg=_number(record, "elevation_deg", -89.99, 89.99, where),
        distance=_number(record, "distance", 0.1, 1000.0, where),
        camera=_camera(take(record, "camera", dict, where), f"{where}.camera"),
        visible_share=_number(record, "visible_share", 0.0, 1.0, where),
        mask=take(record, "mask_rle", str, where),
        surface=_path(record, surface_kind, where),
        surface_kind=surface_kind,
        views=_path(record, "views", where),
        surface_sha256=_sha256(record, surface_kind, where),
        views_sha256=_sha256(record, "views", where),
        view_cameras=_view_cameras(record, where),
        symmetry_deg=_symmetry_deg(record, where),
        held_out=take(record, "held_out", bool, where),
    )


def _symmetry_deg(record: dict[str, object], where: str) -> float:
    if "symmetry_deg" not in record:
        return NO_SYMMETRY_DEG
    turn = _number(record, "symmetry_deg", 0.0, 360.0, where)
    if turn and abs(360 / turn - round(360 / turn)) > 1e-3:
        raise SourceError("bad_truth", f"{where}.symmetry_deg is {turn}, allowed are 0 and 360 over a whole number")
    return turn


def _view_cameras(record: dict[str, object], where: str) -> Camera | None:
    if "view_cameras" not in record:
        return None
    where = f"{where}.view_cameras"
    rows = checked(record["view_cameras"], list, where)
    if not 1 <= len(rows) <= MOST_VIEWS:
        raise SourceError("bad_truth", f"{where} has {len(rows)} cameras, allowed are 1 to {MOST_VIEWS}")
    cameras = [_camera(checked(row, dict, f"{where}[{index}]"), f"{where}[{index}]") for index, row in enumerate(rows)]
    return Camera(torch.cat([one.pose for one in cameras]), torch.cat([one.intrinsics for one in cameras]))


def _camera(record: dict[str, object], where: str) -> Camera:
    rows = take(record, "pose", list, where)
    if len(rows) != 4:
        raise SourceError("bad_truth", f"{where}.pose has {len(rows)} rows, expected 4")
    pose = torch.tensor([_numbers(row, 4, f"{where}.pose") for row in rows])
    rotation = pose[:3, :3]
    rigid = torch.allclose(rotation @ rotation.T, torch.eye(3), atol=RIGID) and float(torch.linalg.det(rotation)) > 0
    if not rigid or pose[3].tolist() != [0, 0, 0, 1]:
        raise SourceError("bad_truth", f"{where}.pose is not a rotation and a translation: {pose.tolist()}")
    return Camera(pose[None], torch.tensor([_numbers(record.get("intrinsics"), 4, f"{where}.intrinsics")]))


def _sha256(record: object, name: str, where: str) -> str:
    found = take(take(record, "sha256", dict, where), name, str, f"{where}.sha256")
    if not SHA256.fullmatch(found):
        raise SourceError("bad_truth", f"{where}.sha256.{name} is {found[:80]!r}, expected 64 hexadecimal digits")
    return found


def _path(record: object, name: str, where: str) -> str:
    path = take(record, name, str, where)
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise SourceError("bad_truth", f"{where}.{name} is {path[:80]!r}, expected a path below truth.json's folder")
    return path

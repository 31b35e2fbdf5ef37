"""truth.json: the ground truth of a shard as a file, read and checked. docs/mini-world.md has the format.

`truth.json` (format `anything3d-truth-2`) lists the objects of every image. Each has its surface (points as PLY, or a
mesh as GLB), views of it alone, perhaps its solid (a closed mesh as GLB), and the sha256 of these files. So the bytes
of truth.json stand for all of the truth.
"""

import json
import math
import re
from pathlib import PurePosixPath
from typing import Literal, TypeVar

import torch

from anything3d.errors import SourceError
from anything3d.quality.truth import TrueImage, TrueObject, Truth, ViewPlan, Vocabulary
from anything3d.space.camera import Camera

FORMAT = "anything3d-truth-2"
FORMER = "anything3d-truth-1"  # without the sha256 of its files
SHA256 = re.compile(r"[0-9a-f]{64}")
RIGID = 1e-3  # how far a pose's rotation may be from orthonormal, per entry
MOST_VIEWS = 64  # of one object
NO_SYMMETRY_DEG = 360.0

T = TypeVar("T")


def read(data: bytes) -> Truth:
    """The contents of truth.json.

    Raises: SourceError("bad_truth") that names the place and the value, if anything is missing or out of range.
    """
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError("bad_truth", f"truth.json is not JSON: {error}") from error
    if (stated := take(root, "format", str, "truth")) != FORMAT:
        old = (
            "; it lacks the sha256 of its files: write the truth again (`anything3d world`)" if stated == FORMER else ""
        )
        raise SourceError("bad_truth", f"format is {stated!r}, this library reads {FORMAT!r}{old}")
    images = take(root, "images", dict, "truth")
    return Truth(
        shard=take(root, "shard", str, "truth"),
        plan=_view_plan(take(root, "views", dict, "truth")),
        images={name: _true_image(record, str(name)) for name, record in images.items()},
        vocabulary=_vocabulary(take(root, "vocabulary", dict, "truth")) if "vocabulary" in root else Vocabulary(),
        world=take(root, "world", str, "truth") if "world" in root else "",
    )


def take(record: object, name: str, kind: type[T], where: str) -> T:
    """`record[name]`, checked to be of `kind`."""
    if not isinstance(record, dict) or name not in record:
        raise SourceError("bad_truth", f"{where} has no {name!r}")
    return checked(record[name], kind, f"{where}.{name}")


def checked(value: object, kind: type[T], where: str) -> T:
    """`value` if it is of `kind`; an integer is also a float, a boolean only a boolean, a float is finite."""
    if kind is float and type(value) is int and abs(value) < 2**53:  # a larger one need not be a float
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
        mask=take(record, "mask_rle", str, where),
        surface=_path(record, surface_kind, where),
        surface_kind=surface_kind,
        views=_path(record, "views", where),
        surface_sha256=_sha256(record, surface_kind, where),
        views_sha256=_sha256(record, "views", where),
        view_cameras=_view_cameras(record, where),
        symmetry_deg=_symmetry_deg(record, where),
        held_out=take(record, "held_out", bool, where),
        solid=_path(record, "solid", where) if "solid" in record else "",
        solid_sha256=_sha256(record, "solid", where) if "solid" in record else "",
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
    stated = take(take(record, "sha256", dict, where), name, str, f"{where}.sha256")
    if not SHA256.fullmatch(stated):
        raise SourceError("bad_truth", f"{where}.sha256.{name} is {stated[:80]!r}, expected 64 hexadecimal digits")
    return stated


def _path(record: object, name: str, where: str) -> str:
    path = take(record, name, str, where)
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise SourceError("bad_truth", f"{where}.{name} is {path[:80]!r}, expected a path below truth.json's folder")
    return path

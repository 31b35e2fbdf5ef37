"""The annotations of a photo: SA-1B's JSON. The parser trusts nothing.

A damaged file raises an error. A damaged annotation costs that annotation only. The run lengths are the truth: box and
area are computed from them. The stated box and area are kept. They may differ from the computed ones a little; if they
differ grossly, the annotation is damaged, because a swapped character can keep the sum of the run lengths but hardly
the area and the box as well.

Source: SA-1B's format as published. The width and height of its boxes are last - first, which is one less than ours.
Both are read.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as shown  # bounded in depth and length, as hostile values are not
from typing import Any

from anything3d.errors import InputError
from anything3d.photo import mask
from anything3d.photo.mask import Box

MAX_BYTES = 16 * 2**20  # of the JSON; SA-1B's largest are below 1 MB
MAX_VALUES = 2**20  # in the JSON; 10000 annotations have a third of it
MAX_ANNOTATIONS = 10_000  # of one photo; SA-1B has about 100
MAX_SIDE_PX = 2**16  # of a photo
MAX_ID = 2**63 - 1  # what a column can hold
AREA_TOLERANCE = 0.02  # share of the larger area; a stated area beyond that describes another mask
AREA_TOLERANCE_PX = 16  # ... of small masks
BOX_TOLERANCE = 0.02  # share of the box's longer side, for each of its edges
BOX_TOLERANCE_PX = 2.0  # ... of small boxes
IOU_RANGE = (-1.0, 2.0)  # a network's estimate: it exceeds 1 now and then

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One mask of a photo, as the shard has it. `index` is its index in the JSON's list and names the object."""

    index: int
    box: Box  # pixels, of the decoded mask; (0, 0, 0, 0) if it is empty
    area_px: int  # of the decoded mask
    counts: str  # COCO's compressed RLE
    predicted_iou: float  # SAM's estimate; can exceed 1
    stability_score: float  # IoU of the mask at two thresholds, 0 to 1
    point: tuple[float, float]  # x, y in pixels: the prompt; need not lie in the mask
    annotation_id: int
    stated_box: tuple[float, float, float, float]  # x, y, width, height as the file has them
    stated_area_px: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A JSON object in which a key occurs twice."""

    key: str


def parse_annotations(data: bytes, image_id: str) -> tuple[tuple[int, int], list[Annotation | InputError]]:
    """The photo's (height, width) and one entry per annotation, in order: the annotation, or what is wrong with it.

    Unknown keys are ignored. Numbers must be finite and in range wherever they are read.

    Raises: InputError json_bytes, json_values, json_syntax, json_depth, json_duplicate_key, json_field, json_number,
    image_id_mismatch, annotations_too_many for damage of the file. Entries have those codes too, and size_mismatch,
    rle_*, area_mismatch, box_mismatch.
    """
    root = _fields(_load(data), "the file")
    image = _fields(_get(root, "image"), "image")
    size = (_integer(image, "height", 1, MAX_SIDE_PX), _integer(image, "width", 1, MAX_SIDE_PX))
    if size[0] * size[1] > mask.MAX_PX:
        raise InputError("json_number", f"image: {size[1]}x{size[0]} px; at most {mask.MAX_PX} px are allowed")
    _check_identity(image, image_id)
    annotations = _list(root, "annotations")
    if len(annotations) > MAX_ANNOTATIONS:
        raise InputError("annotations_too_many", f"{len(annotations)} annotations; at most {MAX_ANNOTATIONS}")
    return size, [_entry(value, index, size) for index, value in enumerate(annotations)]


def _load(data: bytes) -> object:
    if len(data) > MAX_BYTES:
        raise InputError("json_bytes", f"{len(data)} bytes of annotations; at most {MAX_BYTES} are allowed")
    values = sum(map(data.count, (b",", b"[", b"{")))  # no value is without one of these before it; texts may have more
    if values > MAX_VALUES:
        raise InputError("json_values", f"about {values} values; at most {MAX_VALUES} are allowed")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError as error:
        raise InputError("json_depth", "the JSON is nested too deeply; annotations have depth 5") from error
    except ValueError as error:  # broken syntax, broken UTF-8, an integer of thousands of digits
        raise InputError("json_syntax", f"not JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Duplicate:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    return Duplicate(next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1))


def _check_identity(image: Fields, image_id: str) -> None:
    """The file's own numbers must name the photo that the member's name names."""
    number = _integer(image, "image_id", 0, MAX_ID)
    file_name = _get(image, "file_name")
    stem = file_name.rsplit(".", 1)[0] if isinstance(file_name, str) else None
    named = re.fullmatch(r"sa_(\d+)", image_id)
    if stem != image_id or (named and int(named[1]) != number):
        raise InputError(
            "image_id_mismatch", f"the annotations are of {shown(file_name)}, image_id {number}, not of {image_id}"
        )


def _entry(value: object, index: int, size: tuple[int, int]) -> Annotation | InputError:
    try:
        return _annotation(_fields(value, "the annotation"), index, size)
    except InputError as error:
        return InputError(error.reason, f"annotation {index}: {error.message}")


def _annotation(fields: Fields, index: int, size: tuple[int, int]) -> Annotation:
    counts = _counts(fields, size)
    lengths = mask.runs(counts, size[0] * size[1])
    annotation = Annotation(
        index=index,
        box=mask.box(lengths, size[0]),
        area_px=mask.area(lengths),
        counts=counts,
        predicted_iou=_number(fields, "predicted_iou", *IOU_RANGE),
        stability_score=_number(fields, "stability_score", 0.0, 1.0),
        point=_point(fields, size),
        annotation_id=_integer(fields, "id", 0, MAX_ID),
        stated_box=_box(fields, "bbox"),
        stated_area_px=_integer(fields, "area", 0, mask.MAX_PX),
    )
    _check_stated(annotation)
    return annotation


def _counts(fields: Fields, size: tuple[int, int]) -> str:
    segmentation = _fields(_get(fields, "segmentation"), "segmentation")
    stated = _list(segmentation, "size")
    if not all(type(side) is int for side in stated) or tuple(stated) != size:
        raise InputError("size_mismatch", f"segmentation.size is {shown(stated)}, the photo's is {list(size)}")
    counts = _get(segmentation, "counts")
    if not isinstance(counts, str):
        raise InputError("json_field", f"segmentation.counts is {type(counts).__name__}; compressed text expected")
    return counts


def _check_stated(annotation: Annotation) -> None:
    area, stated = annotation.area_px, annotation.stated_area_px
    if abs(area - stated) > max(AREA_TOLERANCE_PX, AREA_TOLERANCE * max(area, stated)):
        raise InputError("area_mismatch", f"area is stated as {stated} px, the runs have {area}; the runs are damaged")
    if area == 0:
        return  # an empty mask has no box to compare
    x, y, width, height = annotation.box
    edges = (x, y, x + width - 1, y + height - 1)
    left, top, stated_width, stated_height = annotation.stated_box
    tolerance = max(BOX_TOLERANCE_PX, BOX_TOLERANCE * max(width, height))
    for edge, stated_edge in zip(edges, (left, top, left + stated_width, top + stated_height), strict=True):
        if abs(edge - stated_edge) > tolerance:
            raise InputError(
                "box_mismatch", f"bbox is stated as {annotation.stated_box}, the runs span {annotation.box}"
            )


def _point(fields: Fields, size: tuple[int, int]) -> tuple[float, float]:
    points = _list(fields, "point_coords")
    if len(points) != 1:
        raise InputError("json_field", f"point_coords has {len(points)} points; 1 expected")
    x, y = _numbers(points[0], "point_coords", 2)
    if not (0 <= x <= size[1] and 0 <= y <= size[0]):
        raise InputError("json_number", f"point_coords is ({x}, {y}), outside the {size[1]}x{size[0]} photo")
    return x, y


def _box(fields: Fields, key: str) -> tuple[float, float, float, float]:
    x, y, width, height = _numbers(_get(fields, key), key, 4)
    if width < 0 or height < 0:
        raise InputError("json_number", f"{key} is {width} wide and {height} high; both must be >= 0")
    return x, y, width, height


def _get(fields: Fields, key: str) -> object:
    if key not in fields:
        raise InputError("json_field", f"{key} is missing")
    return fields[key]


def _fields(value: object, name: str) -> Fields:
    if isinstance(value, Duplicate):
        raise InputError("json_duplicate_key", f"{name} has the key {shown(value.key)} twice; which one holds?")
    if not isinstance(value, dict):
        raise InputError("json_field", f"{name} is {type(value).__name__}; an object expected")
    return value


def _list(fields: Fields, key: str) -> list[object]:
    value = _get(fields, key)
    if not isinstance(value, list):
        raise InputError("json_field", f"{key} is {type(value).__name__}; a list expected")
    return value


def _integer(fields: Fields, key: str, lowest: int, highest: int) -> int:
    value = _get(fields, key)
    if type(value) is not int:  # bool is an int to isinstance
        raise InputError("json_field", f"{key} is {shown(value)}; an integer expected")
    if not lowest <= value <= highest:
        raise InputError("json_number", f"{key} is out of range; {lowest} to {highest} are allowed")
    return value


def _number(fields: Fields, key: str, lowest: float, highest: float) -> float:
    value = _finite(_get(fields, key), key)
    if not lowest <= value <= highest:
        raise InputError("json_number", f"{key} is {value}; {lowest} to {highest} are allowed")
    return value


def _numbers(value: object, name: str, length: int) -> list[float]:
    if not isinstance(value, list) or len(value) != length:
        raise InputError("json_field", f"{name} is {shown(value)}; {length} numbers expected")
    return [_finite(number, name) for number in value]


def _finite(value: object, name: str) -> float:
    """JSON as Python reads it has NaN, Infinity and 1e400; integers and floats are both numbers."""
    if type(value) is not int and type(value) is not float:
        raise InputError("json_field", f"{name} is {shown(value)}; a number expected")
    if not abs(value) <= MAX_ID or not math.isfinite(value):
        raise InputError("json_number", f"{name} is not a finite number within {MAX_ID}")
    return float(value)

"""Stages that do nothing, and shards of photos without pixels: what the engine itself costs can be measured with them.

`load` stands in for that of `pipeline/stages/__init__.py`. The stage `index` is the real one: it reads the headers of a
real tar. Every later stage gives each item small rows of the right type at once.
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, replace
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from PIL import Image

from pipeline.batch import Checkpoint, Outcome
from pipeline.stages import BY_NAME
from pipeline.stages import load as load_stage
from pipeline.store import Store
from pipeline.unit import Unit
from schemas.records import ImageRecord

OBJECTS_PER_PHOTO = 2  # about what SA-1B's photos have after the selection of masks
CROP_PX = 8
# What a column without a default gets, by its type.
FILLING: dict[Any, Any] = {str: "", int: 1, float: 1.0, bool: True, bytes: bytes(1024)}


def load(name: str, config: str, device: str) -> Any:  # noqa: ANN401 - a Stage, or what is called like one
    """The stage `name`: that of a run if it is `index`, and one that does nothing otherwise."""
    return load_stage(name, config, device) if name == "index" else Nothing(name)


class Nothing:
    """A stage that gives every item its rows without looking at it: OBJECTS_PER_PHOTO of a photo, one of an object."""

    def __init__(self, name: str) -> None:
        self._per_photo, self._row = name == "segment", least_row(BY_NAME[name].record)

    def __call__(self, items: Sequence[Any], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        del unit, checkpoint
        if self._per_photo:
            return [[self._object(item[0], number) for number in range(OBJECTS_PER_PHOTO)] for item in items]
        return [[replace(self._row, object_id=item[0].object_id)] for item in items]

    def _object(self, photo: ImageRecord, number: int) -> Any:  # noqa: ANN401 - an ObjectRecord
        known = {"image_id": photo.image_id, "shard": photo.shard}
        return replace(self._row, object_id=f"{photo.image_id}-{number:04d}", **known)


def least_row(record: type[Any]) -> Any:  # noqa: ANN401 - an instance of `record`
    """A row whose columns have their defaults, or the least that their types allow. A PNG is a white square."""
    types = get_type_hints(record)
    return record(
        **{
            column.name: _crop() if column.name.endswith("_png") else _least(types[column.name])
            for column in fields(record)
            if column.default is MISSING
        }
    )


def _least(kind: Any) -> Any:  # noqa: ANN401 - a type, a value of it
    """The least that a column of this type can have."""
    if get_origin(kind) is UnionType:  # its other type is None
        return None
    return get_args(kind)[0] if get_origin(kind) is Literal else FILLING[kind]


def _crop() -> bytes:
    """A white square, as PNG with alpha."""
    file = io.BytesIO()
    Image.new("RGBA", (CROP_PX, CROP_PX), (255, 255, 255, 255)).save(file, "PNG")
    return file.getvalue()


def write_shards(root: str, photos: int, per_shard: int) -> list[str]:
    """Write tars with so many photos in all into the folder `root`, each with at most `per_shard`; their locations.

    The names and the order of the members are those of SA-1B. Each member has one byte.
    """
    store, numbers = Store(root), range(photos)
    names = [_write(store, numbers[start : start + per_shard]) for start in range(0, photos, per_shard)]
    return [f"{root}/{name}" for name in names]


def _write(store: Store, photos: range) -> str:
    """Write the tar of the photos with these numbers; its name."""
    file, name = io.BytesIO(), f"sa_{photos.start:07d}.tar"
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member in _members(photos):
            tar.addfile(member, io.BytesIO(b"x"))
    store.write_file(name, file)
    return name


def _members(photos: range) -> Iterator[tarfile.TarInfo]:
    for number in photos:
        for ending in ("jpg", "json"):
            member = tarfile.TarInfo(f"./sa_{number}.{ending}")
            member.size = 1
            yield member

"""One object of a corpus: what every stage says about it, and the columns of objects/*.parquet.

This file imports no Arrow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from schemas.records import (
    OF_ITS_STAGE,
    CaptionRecord,
    CloudRecord,
    ConceptRecord,
    FieldRecord,
    MeshRecord,
    ObjectRecord,
    OriginRecord,
    ScoreRecord,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRows:
    """The rows of one object: one field for each stage whose rows are objects, named after the stage.

    None means that the stage did not run for this snapshot: nothing needed it, or the snapshot was made before the
    stage existed. A new stage is one more field here, with `| None = None`; its columns become part of
    objects/*.parquet.
    """

    segment: ObjectRecord
    caption: CaptionRecord | None = None
    invert: ConceptRecord | None = None
    lift: CloudRecord | None = None
    reconstruct: FieldRecord
    mesh: MeshRecord
    score: ScoreRecord
    origin: OriginRecord | None = None  # of no stage; None outside a snapshot

    @property
    def object_id(self) -> str:
        return self.segment.object_id


@dataclass(frozen=True, slots=True)
class Column:
    """A column of objects/*.parquet."""

    name: str  # in the file
    stage: str  # "" if it is of no stage
    field: str  # of the stage's record
    type: Any  # in Python; with None if the record's column may be null
    about: str  # unit or meaning
    optional: bool  # null, too, where the stage did not run


OBJECT_ID = Column(
    "object_id",
    "segment",
    "object_id",
    str,
    get_args(get_type_hints(ObjectRecord, include_extras=True)["object_id"])[1],
    False,
)
ASSET_TAR = Column("asset_tar", "", "", str, "path in the corpus of the tar with its files", False)
ASSETS = {  # suffix of a file of an object in its tar -> what the file is
    "json": "its metadata",
    "png": "the crop",
    "mask.png": "the mask",
    "cloud.ply": "the cloud",
    "glb": "the mesh",
    "turntable.webp": "the turntable",
}
OF_LIFT = "cloud.ply"  # the file that is missing if lift did not run


def _record_of(hint: type[Any]) -> type[Any]:
    (record,) = (kind for kind in get_args(hint) or (hint,) if kind is not NoneType)
    return record


ORIGIN = "origin"  # the field that is of no stage
_HINTS = get_type_hints(ObjectRows)
OBJECT_RECORDS: dict[str, type[Any]] = {  # stage -> record
    stage: _record_of(hint) for stage, hint in _HINTS.items() if stage != ORIGIN
}
OPTIONAL = frozenset(stage for stage in OBJECT_RECORDS if NoneType in get_args(_HINTS[stage]))  # may not run


def object_columns(records: Mapping[str, type[Any]]) -> list[Column]:
    """The columns of objects/*.parquet, in order. Bytes are no columns: they are files in tars.

    Raises: ValueError if two records have a column of the same name.
    """
    columns = {column.name: column for column in (OBJECT_ID, ASSET_TAR)}
    for column in _columns(records):
        if (other := columns.setdefault(column.name, column)) is not column:
            raise ValueError(
                f"{records[other.stage].__name__} and {records[column.stage].__name__} both have a column"
                f" {column.name!r} of objects/*.parquet: rename one, or mark it with OF_ITS_STAGE (schemas/records.py)"
            )
    return [*columns.values(), *_span_columns()]


def _columns(records: Mapping[str, type[Any]]) -> Iterator[Column]:
    for stage, record in records.items():
        hints = get_type_hints(record, include_extras=True)
        for own in fields(record):
            kind, about, *marks = get_args(hints[own.name])
            if bytes in (kind, *get_args(kind)) or own.name == "object_id":
                continue
            name = f"{stage}_{own.name}" if OF_ITS_STAGE in marks else own.name
            yield Column(name, stage, own.name, kind, about, stage in OPTIONAL)


def span_names(suffix: str) -> tuple[str, str]:
    """The two columns that say where a file of an object lies in its tar: the first byte, and the number of bytes."""
    name = suffix.replace(".", "_")
    return f"{name}_offset", f"{name}_size"


def _span_columns() -> Iterator[Column]:
    for suffix, what in ASSETS.items():
        kind, absent = (int | None, "null if lift did not run; ") if suffix == OF_LIFT else (int, "")
        offset, size = span_names(suffix)
        yield Column(offset, "", "", kind, f"{absent}byte of asset_tar at which {what} begins (.{suffix})", False)
        yield Column(size, "", "", kind, f"{absent}bytes of {what}", False)


OBJECT_COLUMNS = object_columns({**OBJECT_RECORDS, ORIGIN: OriginRecord})


PLACES = frozenset({ASSET_TAR.name, *(name for suffix in ASSETS for name in span_names(suffix))})  # where files lie


def metadata(rows: ObjectRows) -> dict[str, Any]:
    """The value of every column of one object that its rows have: not where its files lie in which tar.

    The columns of a stage that did not run are left out.
    """
    return {
        column.name: getattr(row, column.field)
        for column in OBJECT_COLUMNS
        if column.stage and (row := getattr(rows, column.stage)) is not None
    }

"""The corpus's tables, as other people's tools read them: everything known of an object but its large assets."""

import pyarrow as pa

from schemas.arrow import schema_of
from schemas.records import (
    CaptionRecord,
    CloudRecord,
    ConceptRecord,
    FieldRecord,
    MeshRecord,
    ObjectRecord,
    ScoreRecord,
)

OBJECT_RECORDS = {
    "segment": ObjectRecord,
    "caption": CaptionRecord,
    "invert": ConceptRecord,
    "lift": CloudRecord,
    "reconstruct": FieldRecord,
    "mesh": MeshRecord,
    "score": ScoreRecord,
}  # stage -> what it says of one object


def objects_schema() -> pa.Schema:
    """objects/*.parquet: one row per object. `steps` of invert and reconstruct are told apart by their stage's name."""
    columns = [pa.field("asset_tar", pa.string(), nullable=False, metadata={"about": "file in assets/ with its files"})]
    for stage, record in OBJECT_RECORDS.items():
        for column in schema_of(record):
            if pa.types.is_binary(column.type) or (column.name == "object_id" and stage != "segment"):
                continue
            columns.append(column.with_name(column_name(stage, column.name)))
    columns.sort(key=lambda column: column.name != "object_id")  # stable: the id comes first
    return pa.schema(columns, metadata={"record": "objects", "about": "one row per finished object"})


def column_name(stage: str, column: str) -> str:
    """A record's column in objects/*.parquet."""
    return f"{stage}_{column}" if column in ("steps", "attempts") else column

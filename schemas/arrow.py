"""Records and Arrow meet only here.

The class of a record gives a schema, rows give a table, and a table gives rows and Parquet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.corpus import OBJECT_COLUMNS, Column
from schemas.records import IF_ANY

R = TypeVar("R")
ROWS_PER_GROUP = 8  # of a part: what a reader of a few objects has to decode around them
PUBLISHED_ROWS_PER_GROUP = 65_536  # of a public table: what a reader of all objects takes at once; a shard has fewer
ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}


def schema_of(record: type[Any]) -> pa.Schema:
    """The Arrow schema of a record class; each field's metadata says its unit or meaning."""
    hints = get_type_hints(record, include_extras=True)
    return pa.schema(
        [_field(column.name, hints[column.name]) for column in fields(record)],
        metadata={"record": record.__name__, "about": (record.__doc__ or "").strip()},
    )


def to_table(rows: Sequence[Any], record: type[Any], *, whole: bool = False) -> pa.Table:
    """Rows of one record class as an Arrow table (no rows: an empty table with the schema).

    A column that is marked with IF_ANY is left out if all rows have its default, unless the table has to be `whole`.
    """
    schema, hints = schema_of(record), get_type_hints(record, include_extras=True)
    values = {column.name: [getattr(row, column.name) for row in rows] for column in fields(record)}
    for index, column in reversed(list(enumerate(fields(record)))):
        marked = IF_ANY in getattr(hints[column.name], "__metadata__", ())
        if marked and not whole and all(value == column.default for value in values[column.name]):
            del values[column.name]
            schema = schema.remove(index)
    return pa.Table.from_pydict(values, schema)


def from_table(table: pa.Table, record: type[R]) -> list[R]:
    """The rows of a table, as instances of `record`; columns that the record lacks are left out.

    A column that the table lacks has the record's default.

    Raises: ValueError if the table lacks a column without a default: it was written for another version of the record.
    """
    own = fields(record)  # type: ignore[arg-type]
    absent = [column for column in own if column.name not in table.column_names]
    if lost := [column.name for column in absent if column.default is MISSING]:
        raise ValueError(f"{record.__name__} has columns that the table lacks: {', '.join(lost)}")
    names = [column.name for column in own if column not in absent]
    columns = [table.column(name).to_pylist() for name in names]
    return [record(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def parquet_bytes(table: pa.Table) -> bytes:
    """A part of a cell as a Parquet file; binary columns are stored as they are (they hold compressed formats)."""
    sink = pa.BufferOutputStream()
    compression = {field.name: "NONE" if pa.types.is_binary(field.type) else "ZSTD" for field in table.schema}
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression=compression,
        use_dictionary=False,
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


def published_bytes(table: pa.Table) -> bytes:
    """A table for other tools as a Parquet file: large row groups, dictionaries, ZSTD, page index and checksums.

    A table without rows has no row group: the library `datasets` cannot read an empty one.
    """
    sink = pa.BufferOutputStream()
    options = {"compression": "ZSTD", "write_page_index": True, "write_page_checksum": True}
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        if table.num_rows:
            writer.write_table(table, row_group_size=PUBLISHED_ROWS_PER_GROUP)
    return sink.getvalue().to_pybytes()


def objects_table(rows: Sequence[Mapping[str, Any]], tar: str) -> pa.Table:
    """Rows of objects/*.parquet: what `write_tar` says of its objects, and the path of the tar in the corpus."""
    return pa.Table.from_pylist([{**row, "asset_tar": tar} for row in rows], objects_schema())


def objects_schema() -> pa.Schema:
    """objects/*.parquet: one row per object. A column of a stage that may not run is null where it did not."""
    return pa.schema(
        [_object_field(column) for column in OBJECT_COLUMNS],
        metadata={"record": "objects", "about": "one row per finished object"},
    )


def _object_field(column: Column) -> pa.Field:
    if not column.optional:
        return _typed(column.name, column.type, column.about)
    or_else = (
        f" or {column.about.removeprefix('null if ')}" if column.about.startswith("null if ") else f"; {column.about}"
    )
    return _typed(column.name, column.type | None, f"null if {column.stage} did not run{or_else}")


def _field(name: str, hint: Any) -> pa.Field:  # noqa: ANN401 - whatever stands behind a column's name
    """`hint` is Annotated[the column's Python type, its unit or meaning, marks that are of no concern here]."""
    kind, about, *_ = get_args(hint)
    return _typed(name, kind, about)


def _typed(name: str, kind: Any, about: str) -> pa.Field:  # noqa: ANN401 - likewise
    """A column of a Python type; it is nullable if None is allowed."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    (known,) = (each for each in kinds if each is not NoneType)
    python = type(get_args(known)[0]) if get_origin(known) is Literal else known
    return pa.field(name, ARROW[python], nullable=NoneType in kinds, metadata={"about": about})

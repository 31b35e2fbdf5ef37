"""The only meeting of records and Arrow: a record class gives a schema, rows a table, a table rows and Parquet."""

from collections.abc import Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

R = TypeVar("R")
ROWS_PER_GROUP = 8  # of a part: what a reader of a few objects has to decode around them
ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}


def schema_of(record: type[Any]) -> pa.Schema:
    """The Arrow schema of a record class; each field's metadata says its unit or meaning."""
    hints = get_type_hints(record, include_extras=True)
    return pa.schema(
        [_field(column.name, hints[column.name]) for column in fields(record)],
        metadata={"record": record.__name__, "about": (record.__doc__ or "").strip()},
    )


def to_table(rows: Sequence[Any], record: type[Any]) -> pa.Table:
    """Rows of one record class as an Arrow table (no rows: an empty table with the schema)."""
    names = [column.name for column in fields(record)]
    return pa.Table.from_pydict({name: [getattr(row, name) for row in rows] for name in names}, schema_of(record))


def from_table(table: pa.Table, record: type[R]) -> list[R]:
    """The rows of a table, as instances of `record`; columns that the record lacks are left out."""
    names = [column.name for column in fields(record)]  # type: ignore[arg-type]
    columns = [table.column(name).to_pylist() for name in names]
    return [record(*values) for values in zip(*columns, strict=True)]


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file; binary columns are stored as they are (they hold compressed formats)."""
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


def _field(name: str, hint: Any) -> pa.Field:  # noqa: ANN401 - whatever stands behind a column's name
    """`hint` is Annotated[the column's Python type, its unit or meaning]; the column is nullable if None is allowed."""
    kind, about = get_args(hint)
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    (known,) = (each for each in kinds if each is not NoneType)
    python = type(get_args(known)[0]) if get_origin(known) is Literal else known
    return pa.field(name, ARROW[python], nullable=NoneType in kinds, metadata={"about": about})

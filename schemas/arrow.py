"""Records and Arrow meet only here.

The class of a record gives a schema, rows give a table, and a table gives rows and Parquet.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache, reduce
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.corpus import OBJECT_COLUMNS, Column
from schemas.records import IF_ANY

R = TypeVar("R")
# Of a row group of a part, at least: what a reader of a few objects may have to read around them. A reader who needs no
# column of bytes asks for as many pieces as there are row groups. Two rows instead of one halve their number.
GROUP_BYTES, GROUP_ROWS = 256 << 10, 2
IDS = b"ids"  # of a part, in its footer: the values of the first column, as a list in JSON
PUBLISHED_ROWS_PER_GROUP = 65_536  # of a public table: what a reader of all objects takes at once; a shard has fewer
ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}


def schema_of(record: type[Any]) -> pa.Schema:
    """The Arrow schema of a record class; each field's metadata says its unit or meaning."""
    return _known(record)[0]  # type: ignore[arg-type]  # mypy takes no class for hashable


def to_table(rows: Sequence[Any], record: type[Any], *, whole: bool = False) -> pa.Table:
    """Rows of one record class as an Arrow table (no rows: an empty table with the schema).

    A column that is marked with IF_ANY is left out if all rows have its default, unless the table has to be `whole`.
    """
    schema, hints = _known(record)  # type: ignore[arg-type]  # as above
    values = {column.name: [getattr(row, column.name) for row in rows] for column in fields(record)}
    for index, column in reversed(list(enumerate(fields(record)))):
        marked = IF_ANY in getattr(hints[column.name], "__metadata__", ())
        if marked and not whole and all(value == column.default for value in values[column.name]):
            del values[column.name]
            schema = schema.remove(index)
    return pa.Table.from_pydict(values, schema)


def from_table(table: pa.Table, record: type[R], unread: Collection[str] = ()) -> list[R]:
    """The rows of a table, as instances of `record`; columns that the record lacks are left out.

    A column that the table lacks has the record's default; one of `unread` is None, whatever the record says of it.

    Raises: ValueError if the table lacks a column without a default: it was written for another version of the record.
    """
    own = [column for column in fields(record) if column.name not in unread]  # type: ignore[arg-type]
    absent = [column for column in own if column.name not in table.column_names]
    if lost := [column.name for column in absent if column.default is MISSING]:
        raise ValueError(f"{record.__name__} has columns that the table lacks: {', '.join(lost)}")
    names = [column.name for column in own if column not in absent]
    columns = [table.column(name).to_pylist() for name in names]
    nothing = dict.fromkeys(unread)
    return [record(**nothing, **dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def heavy_columns(record: type[Any]) -> list[str]:
    """The columns of bytes: pictures, shapes and numbers of networks. The others are light."""
    return [column.name for column in schema_of(record) if pa.types.is_binary(column.type)]


def parquet_bytes(table: pa.Table) -> bytes:
    """A part of a cell as a Parquet file; equal tables give equal bytes.

    Row groups have GROUP_BYTES or a little more, and at least GROUP_ROWS. The footer has the ids of all rows. Binary
    columns are stored as they are (they hold compressed formats).
    """
    sink = pa.BufferOutputStream()
    compression = {field.name: "NONE" if pa.types.is_binary(field.type) else "ZSTD" for field in table.schema}
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression=compression,
        use_dictionary=False,
        write_page_checksum=True,
        write_statistics=False,
    ) as writer:
        for group in _groups(table):
            writer.write_table(group)
        writer.add_key_value_metadata({IDS: json.dumps(table.column(0).to_pylist(), ensure_ascii=False)})
    return sink.getvalue().to_pybytes()


def footer_bytes(data: bytes) -> int:
    """The size of a Parquet file's footer: the end of the file, which says what lies where in it."""
    return int.from_bytes(data[-8:-4], "little") + 8


def _groups(table: pa.Table) -> Iterator[pa.Table]:
    """The table, cut wherever a row group is full."""
    start, size = 0, 0
    for end, own in enumerate(_row_bytes(table), 1):
        size += own
        if (size >= GROUP_BYTES and end - start >= GROUP_ROWS) or end == table.num_rows:
            yield table.slice(start, end - start)
            start, size = end, 0


def _row_bytes(table: pa.Table) -> list[int]:
    """How many bytes the values of each row have."""
    texts = [column for column in table.columns if pa.types.is_string(column.type) or pa.types.is_binary(column.type)]
    lengths = [pc.binary_length(column).fill_null(0).cast(pa.int64()) for column in texts]
    fixed = pa.scalar(8 * (table.num_columns - len(texts)))
    return reduce(pc.add, lengths, fixed).to_pylist()


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


@cache
def _known(record: type[Any]) -> tuple[pa.Schema, Mapping[str, Any]]:
    """The schema of a record class, and its columns' annotations."""
    hints = get_type_hints(record, include_extras=True)
    schema = pa.schema(
        [_field(column.name, hints[column.name]) for column in fields(record)],
        metadata={"record": record.__name__, "about": (record.__doc__ or "").strip()},
    )
    return schema, hints


def _field(name: str, hint: Any) -> pa.Field:  # noqa: ANN401 - whatever stands behind a column's name
    """`hint` is Annotated[the column's Python type, its unit or meaning, marks that are of no concern here]."""
    kind, about, *_ = get_args(hint)
    return _typed(name, kind, about)


def _typed(name: str, kind: Any, about: str) -> pa.Field:  # noqa: ANN401 - likewise
    """A column of a Python type; it is nullable if None is allowed."""
    kinds = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)  # a Literal or None is a Union
    (known,) = (each for each in kinds if each is not NoneType)
    python = type(get_args(known)[0]) if get_origin(known) is Literal else known
    return pa.field(name, ARROW[python], nullable=NoneType in kinds, metadata={"about": about})

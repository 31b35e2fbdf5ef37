"""Records and Arrow: every record class round-trips, every column says what it is."""

from dataclasses import fields, replace

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from schemas.arrow import from_table, published_bytes, schema_of, to_table
from schemas.corpus import OBJECT_RECORDS
from schemas.records import EvaluationRecord, FieldRecord, ImageRecord, RejectRecord

EXAMPLES = {pa.string(): "x", pa.int64(): 7, pa.float64(): -0.25, pa.binary(): b"\0\xff", pa.bool_(): True}
RECORDS = [ImageRecord, *OBJECT_RECORDS.values(), EvaluationRecord, RejectRecord]


def example(record):
    return record(*(EXAMPLES[column.type] for column in schema_of(record)))


@pytest.mark.parametrize("record", RECORDS)
def test_a_row_comes_back_as_it_went_in(record):
    row = example(record)
    assert from_table(to_table([row, row], record), record) == [row, row]
    assert from_table(to_table([], record), record) == []


@pytest.mark.parametrize("record", RECORDS)
def test_every_column_says_its_unit_or_meaning_and_only_declared_ones_may_be_null(record):
    for column in schema_of(record):
        about = column.metadata[b"about"].decode()
        assert about
        assert column.nullable == about.startswith("null if")


def test_a_row_of_the_wrong_type_is_refused():
    record = RECORDS[2]
    wrong = record(*(3.5 if column.type == pa.string() else "text" for column in schema_of(record)))
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        to_table([wrong], record)


def test_the_id_is_the_first_column_of_every_record():
    assert [fields(record)[0].name for record in RECORDS] == ["image_id", *["object_id"] * 8, "item_id"]


def test_a_table_without_a_column_gives_its_default_or_is_refused():
    field = example(FieldRecord)
    table = to_table([field], FieldRecord)
    assert from_table(table.drop(["dropped"]), FieldRecord) == [replace(field, dropped=0.0)]
    with pytest.raises(ValueError, match="FieldRecord has columns that the table lacks: fog"):
        from_table(table.drop(["fog", "dropped"]), FieldRecord)


def test_a_public_table_without_rows_is_read_by_every_tool_beside_others(tmp_path):
    full = to_table([example(RejectRecord)] * 3, RejectRecord)
    for name, table in (("a", full.slice(0, 0)), ("b", full)):
        (tmp_path / f"{name}.parquet").write_bytes(published_bytes(table))
    assert ds.dataset(tmp_path).to_table().equals(full)
    assert len(pd.read_parquet(tmp_path)) == 3
    assert pl.read_parquet(f"{tmp_path}/*.parquet").height == 3
    assert duckdb.sql(f"select count(*) from '{tmp_path}/*.parquet'").fetchall() == [(3,)]
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups == 0
    assert pd.read_parquet(tmp_path / "a.parquet").columns.tolist() == full.column_names

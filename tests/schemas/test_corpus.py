"""The rows of one object and the columns of objects/*.parquet that follow from them."""

from dataclasses import dataclass, replace
from typing import Annotated

import pyarrow as pa
import pytest

from schemas.arrow import objects_schema, schema_of
from schemas.corpus import ASSETS, OBJECT_RECORDS, OPTIONAL, ObjectRows, metadata, object_columns, span_names
from schemas.records import OF_ITS_STAGE, OriginRecord
from tests.schemas.test_arrow import example

ROWS = ObjectRows(**{stage: example(record) for stage, record in OBJECT_RECORDS.items()}, origin=example(OriginRecord))


def test_the_objects_table_has_each_column_once_the_id_first_and_no_large_binaries():
    schema = objects_schema()
    assert schema.names[:2] == ["object_id", "asset_tar"]
    assert len(set(schema.names)) == len(schema.names)
    assert not any(pa.types.is_binary(column.type) for column in schema)
    assert {"invert_steps", "reconstruct_steps", "reconstruct_attempts", "caption", "fscore_5pct"} <= set(schema.names)


def test_the_stages_are_the_fields_and_only_those_that_may_be_none_are_optional():
    assert list(OBJECT_RECORDS) == ["segment", "caption", "invert", "lift", "reconstruct", "mesh", "score"]
    assert {"caption", "invert", "lift"} == OPTIONAL


def test_columns_of_a_stage_that_may_not_run_may_be_null_and_say_so():
    schema = objects_schema()
    for column in schema:
        assert column.nullable == column.metadata[b"about"].decode().startswith("null if")
    about = schema.field("keyword").metadata[b"about"].decode()
    assert about.startswith("null if caption did not run; the word of the caption")
    assert not schema.field("watertight").nullable


def test_an_object_has_a_value_for_every_column_of_the_stages_that_ran():
    places = {"asset_tar", *(name for suffix in ASSETS for name in span_names(suffix))}
    names = set(objects_schema().names) - places
    assert metadata(ROWS).keys() == names
    lifted = {column.name for column in schema_of(OBJECT_RECORDS["lift"])} - {"object_id", "cloud_ply"}
    assert metadata(replace(ROWS, lift=None)).keys() == names - lifted


@dataclass(frozen=True, slots=True)
class TintRecord:
    """Has a column that lift has, too."""

    object_id: Annotated[str, "the object"]
    points: Annotated[int, "number of points"]


@dataclass(frozen=True, slots=True)
class MarkedRecord:
    """Has the same column, told apart by its stage."""

    object_id: Annotated[str, "the object"]
    points: Annotated[int, "number of points", OF_ITS_STAGE]


def test_two_records_with_a_column_of_the_same_name_are_refused_unless_one_is_told_apart():
    with pytest.raises(ValueError, match="CloudRecord and TintRecord both have a column 'points' of objects"):
        object_columns({**OBJECT_RECORDS, "tint": TintRecord})
    names = [column.name for column in object_columns({**OBJECT_RECORDS, "tint": MarkedRecord})]
    assert (names.count("points"), names.count("tint_points")) == (1, 1)

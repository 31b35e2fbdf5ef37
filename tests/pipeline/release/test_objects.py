"""The files of objects: a WebDataset tar whose members are found by byte range, and the table that says where."""

import io
import json
import tarfile
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import webdataset

from pipeline.release.finished import finished_objects
from pipeline.release.objects import asset_files, write_tar
from schemas.arrow import objects_schema, objects_table, published_bytes
from schemas.corpus import ASSETS, span_names

TAR = "assets/world/some.tar"


def objects(world):
    return list(finished_objects(world.store, world.units, seed=0))


def test_the_tar_is_written_as_the_objects_come_and_equal_objects_give_equal_bytes(world, tmp_path):
    path, grown = tmp_path / "some.tar", []

    def one_by_one():
        for rows in objects(world):
            file.flush()
            grown.append(path.stat().st_size)  # what came before is on disk already
            yield rows

    with path.open("wb") as file:
        written = write_tar(one_by_one(), file)
    assert grown == sorted(set(grown))
    assert len(written) == len(grown) == len(objects(world))
    again = io.BytesIO()
    assert write_tar(objects(world), again) == written
    assert again.getvalue() == path.read_bytes()
    with tarfile.open(path) as tar:
        assert {(member.mtime, member.mode, member.uid, member.gid) for member in tar} == {(0, 0o644, 0, 0)}


def test_a_row_says_where_each_file_of_its_object_lies(world):
    sink = io.BytesIO()
    table = objects_table(write_tar(objects(world), sink), TAR)
    for rows, row in zip(objects(world), table.to_pylist(), strict=True):
        assert (row["object_id"], row["asset_tar"]) == (rows.object_id, TAR)
        files = asset_files(rows)
        assert set(files) == set(ASSETS)
        for suffix, data in files.items():
            offset, size = (row[name] for name in span_names(suffix))
            assert sink.getvalue()[offset : offset + size] == data


def test_the_json_of_an_object_is_its_row_without_the_place_in_the_tar(world):
    sink = io.BytesIO()
    (row, *_) = objects_table(write_tar(objects(world), sink), TAR).to_pylist()
    said = json.loads(sink.getvalue()[row["json_offset"] :][: row["json_size"]])
    places = {"asset_tar", *(name for suffix in ASSETS for name in span_names(suffix))}
    assert said == {name: value for name, value in row.items() if name not in places}


def test_a_stage_that_did_not_run_leaves_out_its_file_and_its_columns(world):
    (first, *_) = objects(world)
    (row,) = objects_table(write_tar([replace(first, lift=None)], io.BytesIO()), TAR).to_pylist()
    assert row["cloud_ply_offset"] is row["cloud_ply_size"] is row["azimuth_deg"] is None
    assert row["glb_size"] == len(first.mesh.glb)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves the tar open
def test_webdataset_reads_the_tar(world, tmp_path):
    with (tmp_path / "some.tar").open("wb") as file:
        write_tar(objects(world), file)
    samples = list(webdataset.WebDataset(str(tmp_path / "some.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [rows.object_id for rows in objects(world)]
    assert all(set(ASSETS) <= set(sample) for sample in samples)


def test_the_public_table_has_few_row_groups_dictionaries_a_page_index_and_zstd(world):
    rows = write_tar(objects(world), io.BytesIO())
    table = objects_table(rows * (20_000 // len(rows)), TAR)
    file = pq.ParquetFile(io.BytesIO(published_bytes(table)), page_checksum_verification=True)
    assert file.read().equals(table)
    assert file.schema_arrow.equals(objects_schema(), check_metadata=True)
    assert file.metadata.num_row_groups == 1
    for column in map(file.metadata.row_group(0).column, range(len(table.schema))):
        assert column.compression == "ZSTD"
        assert column.has_offset_index
        assert column.has_column_index
    licence = file.metadata.row_group(0).column(table.schema.get_field_index("licence"))
    assert "RLE_DICTIONARY" in licence.encodings

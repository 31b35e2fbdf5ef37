"""Exports, opened with the tools that they are for."""

import gzip
import json
import shutil
import sys

import datasets
import deltalake
import duckdb
import lance
import polars
import pytest
from typer.testing import CliRunner

from anything3d.errors import ConfigError, SourceError
from anything3d.space.formats import FORMATS
from jobs.cli import app
from pipeline.release.delta import read_log, write_log
from pipeline.release.export import FORMS, PLACES, export
from pipeline.release.garbage import gc
from pipeline.release.licences import LICENCES
from pipeline.store import Store
from tests import s3
from tests.pipeline.conftest import made, publish


@pytest.fixture(scope="module")
def corpus(world, tmp_path_factory):
    """Two snapshots: the whole shard, and a part of it. Nobody changes it."""
    root = tmp_path_factory.mktemp("export") / "corpus"
    shutil.copytree(world.corpus, root)
    publish(
        Store(str(root)), made(world.unit, world.units[:1], {name: some[:1] for name, some in world.commits.items()})
    )
    return root


def rows_of(corpus, number):
    """Object -> row, of the tables that a snapshot names, and the bytes of its mesh."""
    (partition,) = json.loads((corpus / f"snapshots/{number:06d}.json").read_bytes())["partitions"].values()
    rows = duckdb.sql(f"select * from '{corpus}/{partition['tables']['objects']['path']}'").to_arrow_table().to_pylist()
    for row in rows:
        tar = (corpus / row["asset_tar"]).read_bytes()
        row["glb"] = tar[row["glb_offset"] : row["glb_offset"] + row["glb_size"]]
    return {row["object_id"]: row for row in rows}


def without_places(row):
    return {name: value for name, value in row.items() if name not in PLACES and name != "crop"}


def ids(table):
    return {*map(str, table["object_id"])}


def test_every_snapshot_is_a_version_of_the_delta_table_over_the_same_files(corpus, tmp_path, world):
    root = shutil.copytree(corpus, tmp_path / "corpus")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert export(str(root), "delta", None) == (2, f"{root}/shards")
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    for version in (0, 1):
        table = deltalake.DeltaTable(root / "shards", version=version)
        seen = table.to_pyarrow_table()
        wanted = rows_of(root, version + 1)
        assert ids(seen) == wanted.keys()
        assert set(polars.read_delta(str(root / "shards"), version=version)["object_id"]) == wanted.keys()
        with duckdb.connect() as connection:
            connection.register("objects", table.to_pyarrow_dataset())
            licences = connection.execute("select licence from objects").fetchall()
        assert sorted(licences) == sorted((row["licence"],) for row in wanted.values())
    assert [entry["snapshot"] for entry in table.history()] == [2, 1]

    publish(Store(str(root)), world.made)
    assert export(str(root), "delta", None)[0] == 1
    assert export(str(root), "delta", None)[0] == 0
    assert ids(deltalake.DeltaTable(root / "shards").to_pyarrow_table()) == rows_of(root, 1).keys()
    (removed, added) = (json.loads(line) for line in Store(str(root)).read(log(2)).splitlines()[1:])
    assert removed.keys() == {"remove"}
    assert added.keys() == {"add"}

    found = gc(str(root), 0, 1, apply=True)
    assert found.folders["shards"].foreign == 0
    assert ids(deltalake.DeltaTable(root / "shards").to_pyarrow_table()) == rows_of(root, 3).keys()


def log(version):
    return f"shards/_delta_log/{version:020d}.json"


def test_a_delta_log_with_a_gap_is_refused(corpus, tmp_path):
    root = shutil.copytree(corpus, tmp_path / "corpus")
    export(str(root), "delta", None)
    (root / log(0)).unlink()
    with pytest.raises(SourceError, match="delta_log"):
        export(str(root), "delta", None)


def test_two_delta_exports_at_once_write_each_version_once(corpus, tmp_path):
    root = shutil.copytree(corpus, tmp_path / "corpus")

    class Slow(Store):
        """The real store of a command that another one overtakes before its first version."""

        overtaken = False

        def create(self, path, data):
            if not self.overtaken:
                self.overtaken = True
                assert write_log(Store(self.root)) == (2, 1)
            return super().create(path, data)

    assert write_log(Slow(str(root))) == (0, 1)
    assert read_log(Store(str(root))).snapshot == 2


def test_the_hub_s_library_loads_an_export(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    wanted = rows_of(corpus, 1)
    assert export(str(corpus), "hf", str(tmp_path / "out"), number=1) == (len(wanted), str(tmp_path / "out"))
    found = datasets.load_dataset(str(tmp_path / "out"))["train"]
    assert {row["object_id"]: without_places(row) for row in found} == {
        name: without_places(row) for name, row in wanted.items()
    }
    assert found[0]["crop"].mode == "RGBA"
    assert "licence" in (tmp_path / "out" / "LICENSE").read_text()


def test_only_the_objects_of_a_condition_are_exported(corpus, tmp_path):
    wanted = rows_of(corpus, 1)
    one = min(wanted, key=lambda name: wanted[name]["reference_psnr_db"])
    where = f"reference_psnr_db <= {wanted[one]['reference_psnr_db']!r} -- the worst"
    assert export(str(corpus), "hf", str(tmp_path / "out"), where, 1)[0] == 1
    found = duckdb.sql(f"select object_id, licence from '{tmp_path}/out/data/*/*.parquet'").fetchall()
    assert found == [(one, wanted[one]["licence"])]
    assert "the worst" in (tmp_path / "out" / "README.md").read_text()


def test_objaverse_s_files_name_every_object(corpus, tmp_path):
    wanted = rows_of(corpus, 2)
    assert export(str(corpus), "objaverse", str(tmp_path / "out"))[0] == len(wanted)
    paths = json.loads(gzip.decompress((tmp_path / "out" / "object-paths.json.gz").read_bytes()))
    annotations = json.loads(gzip.decompress((tmp_path / "out" / "metadata" / "000-000.json.gz").read_bytes()))
    assert paths.keys() == annotations.keys() == wanted.keys()
    for name, row in wanted.items():
        assert (tmp_path / "out" / paths[name]).read_bytes() == row["glb"]
        assert annotations[name]["license"] == row["licence"]
        assert annotations[name]["anything3d"] == {
            key: value for key, value in without_places(row).items() if key != "glb"
        }


@pytest.mark.parametrize("form", ["obj", "ply", "usdz"])
def test_meshes_in_other_forms_have_the_layout_of_objaverse(corpus, tmp_path, form):
    wanted = rows_of(corpus, 2)
    assert export(str(corpus), form, str(tmp_path / "out"))[0] == len(wanted)
    paths = json.loads(gzip.decompress((tmp_path / "out" / "object-paths.json.gz").read_bytes()))
    assert paths == {name: f"{form}s/000-000/{name}.{form}" for name in wanted}
    for name, row in wanted.items():
        files = FORMATS[form](row["glb"], name)
        assert files.keys() == {path.name for path in (tmp_path / "out" / f"{form}s" / "000-000").glob(f"{name}.*")}
        if form != "usdz":  # a zip has the time in it
            assert (tmp_path / "out" / paths[name]).read_bytes() == files[f"{name}.{form}"]


def test_lance_reads_columns_and_blobs(corpus, tmp_path):
    wanted = rows_of(corpus, 1)
    assert export(str(corpus), "lance", str(tmp_path / "out"), number=1)[0] == len(wanted)
    found = lance.dataset(tmp_path / "out" / "objects.lance")
    rows = found.to_table(columns=["object_id", "licence"]).to_pylist()
    assert {row["object_id"]: row["licence"] for row in rows} == {name: row["licence"] for name, row in wanted.items()}
    for row, blob in zip(rows, found.take_blobs("glb", indices=list(range(len(rows)))), strict=True):
        assert blob.read() == wanted[row["object_id"]]["glb"]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_command_again_ends_an_export_and_no_other_place_is_touched(corpus, tmp_path, form):
    out = tmp_path / "out"
    export(str(corpus), form, str(out))
    (out / "README.md").unlink()
    export(str(corpus), form, str(out))
    assert (out / "README.md").exists()
    for other in (str(out), str(corpus)):
        with pytest.raises(ConfigError, match="place_in_use"):
            export(str(corpus), form, other, "true")


def test_what_cannot_be_is_said_before_anything_is_written(corpus, tmp_path, monkeypatch):
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"export_where: 'no_such > 1': .*no_such"):
        export(str(corpus), "hf", out, "no_such > 1")
    with pytest.raises(ConfigError, match="export_arguments"):
        export(str(corpus), "hf", None)
    with pytest.raises(ConfigError, match="export_arguments"):
        export(str(corpus), "delta", out)
    monkeypatch.setitem(sys.modules, "lance", None)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(ConfigError, match=r"missing_extra: .*anything3d\[lance\]"):
        export(str(corpus), "lance", out)
    with pytest.raises(ConfigError, match=r"missing_extra: .*anything3d\[usd\]"):
        export(str(corpus), "usdz", out)
    with pytest.raises(ConfigError, match=r"missing_extra: .*anything3d\[where\]"):
        export(str(corpus), "hf", out, "true")
    assert list(tmp_path.iterdir()) == []


def test_an_export_for_a_use_that_a_licence_forbids_is_refused(corpus, tmp_path, monkeypatch):
    """All objects of the mini world are under Apache-2.0. Here it is forgotten, and then taken for another one."""
    count, research_only = len(rows_of(corpus, 2)), LICENCES["CC-BY-NC-4.0"]
    assert export(str(corpus), "objaverse", str(tmp_path / "allowed"), use="commercial")[0] == count
    monkeypatch.delitem(LICENCES, "Apache-2.0")
    with pytest.raises(ConfigError, match=r"--use research: 'Apache-2.0' \(\d+ objects\) is not known") as error:
        export(str(corpus), "objaverse", str(tmp_path / "unknown"), use="research")
    assert error.value.reason == "export_licence"
    assert f"({count} objects)" in error.value.message
    monkeypatch.setitem(LICENCES, "Apache-2.0", research_only)
    with pytest.raises(ConfigError, match=r"--use commercial: 'Apache-2.0' .* does not allow it"):
        export(str(corpus), "objaverse", str(tmp_path / "forbidden"), use="commercial")
    assert not any((tmp_path / name).exists() for name in ("unknown", "forbidden"))


def test_a_damaged_mesh_ends_an_export(corpus, tmp_path):
    root = shutil.copytree(corpus, tmp_path / "corpus")
    row = next(iter(rows_of(root, 2).values()))
    tar = bytearray((root / row["asset_tar"]).read_bytes())
    tar[row["glb_offset"]] ^= 1
    (root / row["asset_tar"]).write_bytes(tar)
    with pytest.raises(SourceError, match=f"damaged_corpus: .*{row['object_id']}"):
        export(str(root), "hf", str(tmp_path / "out"))


def test_a_bucket_is_exported_into_a_bucket(corpus):
    with s3.serve() as server:
        for path in corpus.rglob("*"):
            if path.is_file():
                server.objects[f"corpus/{path.relative_to(corpus)}"] = path.read_bytes()
        assert export("s3://b/corpus", "delta", None)[0] == 2
        wanted = rows_of(corpus, 2)
        assert export("s3://b/corpus", "objaverse", "s3://b/out")[0] == len(wanted)
        assert {server.objects[f"out/glbs/000-000/{name}.glb"] for name in wanted} == {
            row["glb"] for row in wanted.values()
        }
        assert f"corpus/{log(1)}" in server.objects


def test_the_command_says_where_the_export_is(corpus, tmp_path):
    said = CliRunner().invoke(
        app, ["export", str(corpus), "--format", "hf", "--out", str(tmp_path / "out"), "--where", "licence is not null"]
    )
    assert said.exit_code == 0, said.output
    assert said.output == f"{len(rows_of(corpus, 2))} objects: {tmp_path / 'out'}\n"

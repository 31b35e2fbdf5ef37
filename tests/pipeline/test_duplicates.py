"""duplicates on a corpus of real cells: a second shard has the same photos under other names."""

import io
import json
import shutil
import tarfile
from dataclasses import replace

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from anything3d.errors import ConfigError, SourceError
from jobs.cli import app
from pipeline.duplicates import mark
from pipeline.release.corpus import drop
from pipeline.release.export import export
from pipeline.release.gallery.data import unscript
from pipeline.release.garbage import gc
from pipeline.report.page import report_of
from pipeline.store import Store
from schemas.records import ScoreRecord
from tests.pipeline.conftest import World, made, publish

SAME = 0.9999


def renamed(shard, copy):
    """The same shard with other photo ids, which come before the old ones. Old name -> new name."""
    names = {}
    with tarfile.open(shard) as old, tarfile.open(copy, "w", format=tarfile.USTAR_FORMAT) as new:
        for member in old:
            stem = member.name.removeprefix("./").partition(".")[0]
            if not member.isfile():
                continue
            names[stem] = f"sa_1{stem.removeprefix('sa_')}"
            data = old.extractfile(member).read()
            if member.name.endswith(".json"):
                body = json.loads(data)
                image_id = int(names[stem].removeprefix("sa_"))
                body["image"] |= {"image_id": image_id, "file_name": f"{names[stem]}.jpg"}
                data = json.dumps(body).encode()
            entry = tarfile.TarInfo(member.name.replace(stem, names[stem]))
            entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
    return names


class Twice(World):
    """The corpus of the fixture with a second shard, whose objects are the same."""

    def __init__(self, folder, world):
        self.shard, self.truth, self.corpus = folder / "again.tar", world.truth, folder / "corpus"
        names = renamed(world.shard, self.shard)
        shutil.copytree(world.corpus, self.corpus)
        self.says = replace(world.says, images={names[name]: image for name, image in world.says.images.items()})
        self.items = {
            item.replace(item[: item.index("-")], names[item[: item.index("-")]]): known
            for item, known in world.items.items()
        }
        self.original = {
            names[item[: item.index("-")]] + item[item.index("-") :]: item for item in (*world.known, world.stranger)
        }
        self.store, self.commits = Store(str(self.corpus)), {}
        self._make()


class Older(World):
    """The corpus of the fixture as a version without embeddings had scored it."""

    def __init__(self, folder, world):
        self.__dict__ |= world.__dict__ | {"corpus": folder / "corpus", "commits": {}}
        parts = [commit.rows for commit in world.commits["score"]]
        self.scores = {row.object_id: row for part in parts for row in world.store.read_part(part, ScoreRecord)}
        self.store = Store(str(self.corpus))
        self._make()

    def _score(self, object_id):
        return replace(self.scores[object_id], crop_dino=None)


@pytest.fixture(scope="module")
def twice(world, tmp_path_factory):
    """For reading only."""
    return Twice(tmp_path_factory.mktemp("twice"), world)


@pytest.fixture
def corpus(twice, tmp_path):
    return shutil.copytree(twice.corpus, tmp_path / "corpus")


def shown(corpus):
    return unscript((corpus / "gallery/catalogue.js").read_bytes())


def rows_of(corpus, number):
    return pq.read_table(corpus / f"duplicates/{number:06d}.parquet").to_pylist()


def test_the_same_object_in_another_shard_is_marked(twice, corpus):
    """The renamed ids come first, so that the original ones are the duplicates."""
    found = mark(str(corpus), SAME, "cpu")
    rows = rows_of(corpus, 2)
    assert {row["duplicate_of"]: row["object_id"] for row in rows} == twice.original
    assert all(row["cosine"] == pytest.approx(1, abs=0.001) for row in rows)
    assert (found.objects, found.duplicates, found.without, found.networks) == (8, 4, 0, 1)


def test_the_same_snapshot_gives_the_same_table_and_an_other_order_of_shards_does_too(twice, world, corpus, tmp_path):
    mark(str(corpus), SAME, "cpu")
    first = (corpus / "duplicates/000002.parquet").read_bytes()
    other = tmp_path / "other"
    shutil.copytree(world.corpus / "cells", other / "cells")
    shutil.copytree(twice.corpus / "cells", other / "cells", dirs_exist_ok=True)
    store = Store(str(other))
    publish(store, made(twice.unit, twice.units, twice.commits))
    publish(store, world.made)
    mark(str(other), SAME, "cpu")
    assert (other / "duplicates/000002.parquet").read_bytes() == first


def test_the_gallery_and_the_report_know_them_until_there_is_a_new_snapshot(twice, corpus):
    assert shown(corpus)["duplicates"] is None
    mark(str(corpus), SAME, "cpu")
    marks = unscript((corpus / "gallery/duplicates.js").read_bytes())
    assert {of: name for name, (of, _) in marks.items()} == twice.original
    assert shown(corpus)["duplicates"] == 4
    assert report_of(str(corpus), None)[0].duplicates == 4
    drop(str(corpus), ["again"])
    assert shown(corpus)["duplicates"] is None
    assert report_of(str(corpus), None)[0].duplicates is None


def test_an_export_leaves_the_marked_objects_out(twice, corpus, tmp_path):
    mark(str(corpus), SAME, "cpu")
    count, _ = export(str(corpus), "hf", str(tmp_path / "out"), where="duplicate_of is null")
    kept = duckdb.sql(f"select object_id from '{tmp_path}/out/data/*/*.parquet'").fetchall()
    assert (count, {row[0] for row in kept}) == (4, twice.original.keys())
    with pytest.raises(SourceError, match="Nobody has looked for near-duplicates in snapshot 1") as caught:
        export(str(corpus), "hf", str(tmp_path / "old"), where="duplicate_of is null", number=1)
    assert caught.value.reason == "no_duplicates"
    assert not (tmp_path / "old").exists()


def test_an_export_by_other_marks_is_another_one(corpus, tmp_path):
    """After other marks, the rows of the first export would stay among those of the second one."""
    mark(str(corpus), SAME, "cpu")
    out = str(tmp_path / "out")
    for _ in range(2):
        assert export(str(corpus), "objaverse", out, where="duplicate_of is null")[0] == 4
    assert mark(str(corpus), 0.0, "cpu").duplicates > 4
    with pytest.raises(ConfigError, match="place_in_use"):
        export(str(corpus), "objaverse", out, where="duplicate_of is null")
    assert export(str(corpus), "objaverse", str(tmp_path / "other"), where="duplicate_of is null")[0] < 4


def test_gc_deletes_the_table_of_a_snapshot_that_is_not_kept(world, tmp_path):
    corpus = shutil.copytree(world.corpus, tmp_path / "corpus")
    mark(str(corpus), SAME, "cpu")
    publish(
        Store(str(corpus)), made(world.unit, world.units[:1], {name: some[:1] for name, some in world.commits.items()})
    )
    mark(str(corpus), SAME, "cpu")
    gc(str(corpus), 0, 1, apply=True)
    assert [path.name for path in (corpus / "duplicates").iterdir()] == ["000002.parquet"]


def test_the_command_says_what_it_has_found(corpus):
    done = CliRunner().invoke(app, ["duplicates", str(corpus), "--min-cosine", str(SAME)])
    assert done.exit_code == 0
    assert done.output == (f"4 of 8 objects look nearly like an earlier one: {corpus}/duplicates/000002.parquet\n")


def test_a_corpus_without_embeddings_says_what_to_do(world, tmp_path):
    older = Older(tmp_path, world)
    done = CliRunner().invoke(app, ["duplicates", str(older.corpus)])
    assert done.exit_code == 2
    assert done.stderr.startswith("anything3d: no_embedding: No object of ")
    assert "Give the command of the run again." in done.stderr
    assert not (older.corpus / "duplicates").exists()

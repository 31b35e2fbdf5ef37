"""The index of the tars is one that `wids` reads, on a disk and in a bucket."""

import json

import pytest
import wids
from wids.wids_specs import resolve_dsdesc, urldir

from pipeline.commit import Part
from pipeline.release.objects import write_tar
from pipeline.release.wids import ASSETS_INDEX, wids_index
from tests.pipeline.release.test_objects import objects

TARS = [Part(f"assets/world/{name}.tar", 10, "", 2) for name in ("a", "b")]


@pytest.fixture(scope="module")
def corpus(world, tmp_path_factory):
    """Two tars of two objects each, and their index."""
    folder = tmp_path_factory.mktemp("wids")
    (folder / "assets/world").mkdir(parents=True)
    for number, tar in enumerate(TARS):
        with (folder / tar.path).open("wb") as file:
            write_tar(objects(world)[2 * number : 2 * number + 2], file)
    (folder / ASSETS_INDEX).write_bytes(wids_index(TARS))
    return folder


def test_wids_gives_the_nth_object_of_a_corpus(world, corpus, tmp_path):
    dataset = wids.ShardListDataset(str(corpus / ASSETS_INDEX), cache_dir=str(tmp_path), transformations=[])
    assert len(dataset) == len(objects(world)) == 4
    for number, rows in enumerate(objects(world)):
        assert dataset[number]["__key__"] == rows.object_id
        assert dataset[number][".glb"].read() == rows.mesh.glb
        assert json.load(dataset[number][".json"])["object_id"] == rows.object_id
    dataset.close()


def test_in_a_bucket_wids_looks_for_the_tars_beside_the_index():
    index = f"s3://bucket/corpus/{ASSETS_INDEX}"
    found = resolve_dsdesc(json.loads(wids_index(TARS)), base=urldir(index))["shardlist"]
    assert [shard["url"] for shard in found] == [f"s3://bucket/corpus/{tar.path}" for tar in TARS]

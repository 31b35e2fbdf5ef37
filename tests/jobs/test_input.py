"""`anything3d run` on a folder of photos: SAM finds the objects, and what is no photo is said."""

import tarfile

import pyarrow.dataset as ds
import pytest

from tests.jobs.conftest import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(shard, tmp_path_factory):
    """Photos of the mini world under the names that people give, and a file that is none."""
    photos = tmp_path_factory.mktemp("input") / "My Photos"
    photos.mkdir()
    with tarfile.open(shard) as tar:
        members = sorted(entry.name for entry in tar if entry.name.endswith(".jpg"))
        for name, member in zip(("cup-2024.jpg", "dog & cat.JPG"), members, strict=False):
            (photos / name).write_bytes(tar.extractfile(member).read())
    (photos / "notes.txt").write_text("buy milk")
    return photos


def test_a_folder_of_photos_becomes_a_corpus_and_the_same_command_finds_it(folder, tmp_path):
    settings = ["segment.source=sam-grid", "segment.grid_points=6"]
    corpus = run(folder, tmp_path / "corpus", settings)
    rows = ds.dataset(corpus.path / "objects").to_table().to_pylist()
    assert rows
    assert {row["source"] for row in rows} == {"sam-grid"}
    assert all("not stated" in row["licence"] and "SA-1B" not in row["licence"] for row in rows)
    assert all(row["object_id"].startswith("My_Photos__") for row in rows)
    assert {row["photo_name"] for row in rows} <= {"cup-2024.jpg", "dog & cat.JPG"}
    rejects = ds.dataset(corpus.path / "rejects").to_table().to_pylist()
    assert ["My Photos@'notes.txt'", "not_a_photo"] in [[row["item_id"], row["reason"]] for row in rejects]
    again = run(folder, corpus.path, settings)
    assert again.cells_run == 0

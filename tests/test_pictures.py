"""What the pictures of the documentation are made from."""

import shutil
from pathlib import Path

from tests.pictures import objects
from tests.pipeline.release.galleries import make


def test_a_sheet_has_each_object_of_the_newest_snapshot_once(tmp_path):
    """Beside its tar lies that of an earlier snapshot, which gc has not deleted."""
    store, snapshot = make(tmp_path, photos=2, per_shard=2)
    (tar,) = (Path(store.root) / tar.path for partition in snapshot.partitions.values() for tar in partition.tars)
    shutil.copy(tar, tar.with_name("earlier.tar"))
    found = list(objects(Path(store.root)))
    assert [name for name, *_ in found] == ["sa_0-0000", "sa_0-0001", "sa_1-0000", "sa_1-0001"]
    assert {len(views) for *_, views in found} == {4}

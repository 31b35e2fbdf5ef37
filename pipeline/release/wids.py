"""assets/index.json: the tars of a snapshot, as the package `wids` lists them.

`wids.ShardListDataset("corpus/assets/index.json")` gives the n-th object of a corpus. It reads the paths of the tars
relative to the folder of the index. So the index is the same on a disk and in a bucket.
"""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from pipeline.commit import Part

ASSETS_INDEX = "assets/index.json"


def wids_index(tars: Sequence[Part]) -> bytes:
    """The content of assets/index.json. A row of a tar is an object; objects are counted in the order of the tars."""
    folder = PurePosixPath(ASSETS_INDEX).parent
    shards = [
        {"url": str(PurePosixPath(tar.path).relative_to(folder)), "nsamples": tar.rows, "filesize": tar.bytes}
        for tar in tars
    ]
    return json.dumps({"wids_version": 1, "shardlist": shards}, indent=1).encode()

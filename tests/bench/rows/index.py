"""Row 2: which photos a shard holds, where, and what their bytes are."""

import hashlib
import io
import re
import tarfile
from contextlib import contextmanager

import numpy as np

from pipeline.config import IndexConfig
from pipeline.input.shard import Shard
from pipeline.input.tar import scan
from pipeline.stages.index import pair
from schemas.records import ImageRecord
from tests.bench.row import Pair, Timed

PHOTOS = {"full": 200, "toy": 3}
JPG_BYTES, JSON_BYTES = {"full": 1 << 20, "toy": 5000}, {"full": 200 << 10, "toy": 700}
SPARSE_BYTES = {"full": 10 << 30, "toy": 1 << 20}  # of one tar, whose members are holes of a file
SPARSE_MEMBERS = 16


def ours(path):
    found = list(pair(scan(Shard(str(path))), path.stem, IndexConfig(max_member_bytes=1 << 40)))
    assert all(isinstance(one, ImageRecord) for one in found)
    return {one.image_id: (one.jpg_offset, one.jpg_size, one.jpg_sha256, one.json_offset) for one in found}


def peer(path, digests):
    halves = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if not (match := re.fullmatch(r"(?:\./)?(sa_\d+)\.(jpg|json)", member.name)):
                continue
            sha256 = ""
            if digests:
                data = tar.extractfile(member)
                digest = hashlib.sha256()
                while piece := data.read(1 << 20):
                    digest.update(piece)
                sha256 = digest.hexdigest()
            halves.setdefault(match[1], {})[match[2]] = (member.offset_data, member.size, sha256)
    return {name: (*half["jpg"], half["json"][0]) for name, half in halves.items()}


def _with_digests(ours, theirs):
    assert ours == theirs, "places or digests differ"
    return f"the same {len(ours)} photos, places and SHA-256"


def _without_digests(ours, theirs):
    places = [{name: (a, b, d) for name, (a, b, _, d) in found.items()} for found in (ours, theirs)]
    assert places[0] == places[1], "places differ"
    return f"the same {len(ours)} photos and places; theirs knows nothing of the bytes"


@contextmanager
def _random(size, folder, digests):
    path, generator = folder / "shard.tar", np.random.default_rng(0)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(PHOTOS[size]):
            for kind, length in (("jpg", JPG_BYTES[size]), ("json", JSON_BYTES[size])):
                info = tarfile.TarInfo(f"./sa_{index}.{kind}")
                info.size = length
                tar.addfile(info, io.BytesIO(generator.bytes(length)))
    yield Pair(lambda: ours(path), lambda: peer(path, digests), _with_digests if digests else _without_digests)


@contextmanager
def make(size, folder, device):
    with _random(size, folder, True) as made:
        yield made


@contextmanager
def make_headers(size, folder, device):
    with _random(size, folder, False) as made:
        yield made


@contextmanager
def make_sparse(size, folder, device):
    path, at = folder / "sparse.tar", 0
    with path.open("wb") as file:
        for index in range(SPARSE_MEMBERS):
            for kind, length in (("jpg", SPARSE_BYTES[size] // SPARSE_MEMBERS), ("json", 512)):
                info = tarfile.TarInfo(f"./sa_{index}.{kind}")
                info.size = length
                file.seek(at)
                file.write(info.tobuf(tarfile.GNU_FORMAT))
                at += 512 + -(-length // 512) * 512
        file.truncate(at + 1024)
    yield Pair(lambda: ours(path), lambda: peer(path, True), _with_digests)


ROW = Timed("2", "index of a shard with digests", "tarfile with the same digests", 5, make, memory=True)
HEADERS = Timed("2h", "the same", "tarfile alone, without digests", 5, make_headers)
SPARSE = Timed("2m", "index of a sparse tar of 10 GB", "tarfile with digests", 1, make_sparse, pairs=0, memory=True)

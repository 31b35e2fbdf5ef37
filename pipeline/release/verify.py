"""verify: the files and cells of the newest snapshot are compared with their digests, and what is damaged is named.

A run takes a shard for finished by its partition, and does not read its files again. So a shard in which damage is
found gets a partition that no run takes for finished. It names the same files as before, so that what is sound can
still be read. The next run of the shard finds its sound cells, computes the damaged ones, and writes all of its files.

On a disk, a table in objects/ or rejects/ is a second name of the one in shards/, so that both are damaged at once. The
second name is deleted, and the next snapshot of a run makes it again. Until then, the other files that people open show
the snapshot of before.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from anything3d.errors import DamagedCell, SourceError
from pipeline.commit import Part
from pipeline.location import explained
from pipeline.release.partition import Partition, read_manifest
from pipeline.release.snapshot import append, snapshot_of
from pipeline.release.view import tables
from pipeline.store import Store

DAMAGED = "damaged"  # key and digest of a partition that has to be made again
READERS = 16  # threads that read cells and small files


def verify(corpus: str, shards: Sequence[str] = ()) -> tuple[Mapping[str, Sequence[str]], int]:
    """Shard -> what of it is damaged or has gone, of these shards or of all; and how many shards were looked at.

    A snapshot says which shards have to be made again. There is none if nothing is damaged.

    Raises: SourceError("no_snapshot"), SourceError("no_partition"); StorageError.
    """
    store, snapshot = snapshot_of(corpus)
    if unknown := [shard for shard in shards if shard not in snapshot.partitions]:
        raise SourceError("no_partition", f"{corpus} has no shard {', '.join(unknown)}.")
    looked_at = {name: one for name, one in snapshot.partitions.items() if not shards or name in shards}
    with explained(corpus):
        shown: dict[str, dict[str, Part]] = {name: {} for name in looked_at}
        for path, table in tables(snapshot).items():
            if (name := table.path.split("/")[1]) in shown:
                shown[name][path] = replace(table, path=path)
        found = {name: paths for name, one in looked_at.items() if (paths := damage(store, one, shown[name]))}
        store.delete([path for name, paths in found.items() for path in paths if path in shown[name]])

        def change(before: Mapping[str, Partition]) -> dict[str, Partition]:
            wrong = {name: one for name, one in before.items() if name in found and one == looked_at[name]}
            return {**before, **{name: replace(one, key=DAMAGED, digest=DAMAGED) for name, one in wrong.items()}}

        if found:
            locations = {name: looked_at[name].location for name in found}
            of = replace(snapshot.made_by, command="verify", shards=locations, max_objects=None, ids=None)
            append(store, replace(of, sample_rate=None), change)
    return found, len(looked_at)


def damage(store: Store, partition: Partition, shown: Mapping[str, Part]) -> list[str]:
    """The paths of the files and cells of a partition that are not what was written. The commits of these cells go.

    `shown` are the second names of its tables.
    One tar is in memory at a time, or READERS of the other files. A damaged manifest does not say which cells there
    are: then the run reads them, when it writes the files again.
    """
    rows = read_manifest(store, partition)[0] if store.read_whole(partition.manifest) is not None else []
    cells = {row.path for row in rows if row.what == "cell"}
    named = [Part(row.path, row.bytes or 0, row.digest, row.rows) for row in rows if row.what != "cell"]
    files = {part.path: part for part in [*partition.files, *named, *shown.values()]}
    tars = {part.path for part in partition.tars}

    def is_sound(path: str) -> bool:
        return _cell_is_sound(store, path) if path in cells else store.read_whole(files[path]) is not None

    small = sorted(cells | files.keys() - tars)
    with ThreadPoolExecutor(READERS) as threads:
        sound = dict(zip(small, threads.map(is_sound, small), strict=True))
    sound |= {path: is_sound(path) for path in sorted(tars)}
    return [path for path, is_one in sound.items() if not is_one]


def _cell_is_sound(store: Store, folder: str) -> bool:
    """Whether a cell is there and its parts are sound. If one is not, the commit is set aside."""
    commit = store.commit_at(folder)
    try:
        for part in (commit.rows, commit.rejects) if commit else ():
            if part is not None:
                store.read_part_table(part)
    except DamagedCell:
        return False
    return commit is not None

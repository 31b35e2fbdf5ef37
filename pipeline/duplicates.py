"""duplicates: which objects of the newest snapshot look nearly like an earlier one, as a table beside the snapshot.

The stage score has embedded every crop. These embeddings are read from its cells, and all pairs are compared. The order
is that of the object ids. So the same snapshot gives the same table, whichever shard was finished first. This file
does not use Ray.
"""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from anything3d.errors import DamagedCell, SourceError
from pipeline.location import explained
from pipeline.release.duplicates import table_of
from pipeline.release.partition import MEND, Partition, read_manifest, sound_commit, sound_table
from pipeline.release.publish import READERS
from pipeline.release.snapshot import newest, snapshot_of
from pipeline.release.view import write_pages
from pipeline.store import Store
from schemas.arrow import published_bytes, to_table
from schemas.duplicates import DuplicateRecord
from schemas.records import ScoreRecord


@dataclass(frozen=True, slots=True)
class Marked:
    """What has been found in a snapshot."""

    table: str  # path in the corpus
    objects: int
    duplicates: int
    without: int  # objects that have no embedding, as an older version has scored them
    networks: int  # objects that different networks have embedded are not compared: so many networks there are


Embedded = tuple[str, str, bytes | None]  # object, digests of the networks, embedding


def mark(corpus: str, min_cosine: float, device: str) -> Marked:
    """Write the table of near-duplicates of the newest snapshot, and let the gallery show them.

    Raises: SourceError("no_snapshot"), SourceError("damaged_corpus"); SourceError("no_embedding") if no object has an
    embedding; StorageError.
    """
    from anything3d.quality.duplicates import from_bytes, near_duplicates

    store, snapshot = snapshot_of(corpus)
    with explained(corpus):
        of_networks, without = defaultdict[str, list[tuple[str, bytes]]](list), 0
        with ThreadPoolExecutor(READERS) as threads:
            for some in threads.map(lambda one: list(embedded(store, one)), snapshot.partitions.values()):
                for name, networks, vector in some:
                    if vector is None:
                        without += 1
                    else:
                        of_networks[networks].append((name, vector))
        if without and not of_networks:
            raise SourceError(
                "no_embedding",
                f"No object of {corpus} has an embedding: an older version has scored them. Give the command of the run"
                " again. It computes what has changed since.",
            )
        rows = list[DuplicateRecord]()
        for objects in of_networks.values():
            objects.sort()
            names, vectors = [name for name, _ in objects], from_bytes([vector for _, vector in objects])
            objects.clear()
            for found in near_duplicates(vectors, min_cosine, device):
                rows.append(DuplicateRecord(names[found.place], names[found.of], found.cosine))
        rows.sort(key=lambda row: row.object_id)
        store.write(table_of(snapshot.number), published_bytes(to_table(rows, DuplicateRecord)))
        _show(store)
    return Marked(table_of(snapshot.number), snapshot.objects, len(rows), without, len(of_networks))


def _show(store: Store) -> None:
    """Let the gallery show them. If a run publishes meanwhile, the page of its snapshot is written, as it has to be."""
    shown = 0
    while (snapshot := newest(store)) is not None and snapshot.number != shown:
        write_pages(store, snapshot)
        shown = snapshot.number


def embedded(store: Store, partition: Partition) -> Iterator[Embedded]:
    """The finished objects of a shard, with the embeddings that are in its cells.

    Raises: SourceError("damaged_corpus") if a table, a manifest or a cell is damaged or has gone.
    """
    finished = set(sound_table(store, partition.tables["objects"], ["object_id"])["object_id"].to_pylist())
    cells = [row.path for row in read_manifest(store, partition)[0] if row.what == "cell" and row.stage == "score"]
    try:
        for folder in cells:
            commit = sound_commit(store, folder)
            networks = " ".join(sorted(commit.weights.values()))
            for row in store.read_part(commit.rows, ScoreRecord, heavy=("crop_dino",)):
                if row.object_id in finished:
                    finished.remove(row.object_id)
                    yield row.object_id, networks, row.crop_dino
    except DamagedCell as error:
        raise SourceError("damaged_corpus", f"{error.message} {MEND}") from error

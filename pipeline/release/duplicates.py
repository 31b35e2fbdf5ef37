"""The table of near-duplicates of a snapshot, which `anything3d duplicates` has written, if it has."""

import hashlib
import json

import pyarrow as pa
import pyarrow.compute as pc

from anything3d.errors import SourceError
from pipeline.store import Store
from schemas.arrow import schema_of
from schemas.duplicates import DuplicateRecord

DUPLICATE_OF = "duplicate_of"  # the column that a condition of `export` can name


def table_of(number: int) -> str:
    """Where the near-duplicates of a snapshot lie in its corpus."""
    return f"duplicates/{number:06d}.parquet"


def duplicates_of(store: Store, number: int, *, needed: bool = False) -> pa.Table | None:
    """The near-duplicates of the snapshot with this number; None if nobody has looked for them.

    Raises: SourceError("no_duplicates") if nobody has, and they are `needed`.
    """
    if store.size(table_of(number)) is None:
        if needed:
            raise SourceError(
                "no_duplicates",
                f"Nobody has looked for near-duplicates in snapshot {number}, so {DUPLICATE_OF} is not known. Give"
                f" `anything3d duplicates {store.root}` first. It looks at the newest snapshot.",
            )
        return None
    return store.read_table(table_of(number)).select(schema_of(DuplicateRecord).names)


def digest_of(marks: pa.Table | None) -> str | None:
    """Hash of which objects are marked; None if nobody has looked."""
    return None if marks is None else hashlib.sha256(json.dumps(marks.to_pydict()).encode()).hexdigest()[:16]


def with_marks(objects: pa.Table, marks: pa.Table | None) -> pa.Table:
    """The objects with `duplicate_of`, null for those that are no duplicates. Without `marks`, as they are."""
    if marks is None:
        return objects
    places = pc.index_in(objects["object_id"], value_set=marks["object_id"].combine_chunks())
    return objects.append_column(DUPLICATE_OF, marks[DUPLICATE_OF].combine_chunks().take(places))


def marks_of(store: Store, number: int) -> dict[str, tuple[str, float]] | None:
    """Near-duplicate -> the earlier object and the cosine, as the gallery shows them; None as of `duplicates_of`."""
    table = duplicates_of(store, number)
    if table is None:
        return None
    return {row["object_id"]: (row[DUPLICATE_OF], round(row["cosine"], 4)) for row in table.to_pylist()}

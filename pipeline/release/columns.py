"""What a reader of many shards needs of a published table, read by ranges of bytes: its footer, and some columns.

The checksums of the pages are compared. The footer has none. If anything is wrong, the whole file is read, and its
digest says whether it is damaged.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.commit import Part
from pipeline.excerpt import WRONG, Ranges, read_footer, row_groups
from pipeline.release.partition import Partition, sound_bytes
from pipeline.store import GAP_BYTES, Store

log = logging.getLogger(__name__)
T = TypeVar("T")


def read_columns(store: Store, part: Part, names: Sequence[str]) -> pa.Table:
    """Those of these columns that the table has, of all its rows.

    Raises: SourceError("damaged_corpus") if the table is damaged or has gone.
    """

    def columns(ranges: Ranges) -> pa.Table:
        about = read_footer(part.bytes, ranges)
        return row_groups(about, part.bytes, ranges, names, range(about.num_row_groups))

    return _read(store, part, columns)


def read_extents(store: Store, part: Part, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Column of numbers -> its least and its greatest value, as the footer says; without columns that have none.

    Raises: as `read_columns`.
    """
    about = _read(store, part, partial(read_footer, part.bytes))
    found: dict[str, tuple[float, float]] = {}
    for group in range(about.num_row_groups):
        for number in range(about.num_columns):
            chunk = about.row_group(group).column(number)
            known, name = chunk.statistics, chunk.path_in_schema
            if name in names and known is not None and known.has_min_max:
                least, most = found.get(name, (known.min, known.max))
                found[name] = min(least, known.min), max(most, known.max)
    return found


def read_origin(store: Store, partition: Partition) -> Mapping[str, Any]:
    """The settings, weights and versions that made a partition: its manifest without the rows.

    Raises: as `read_columns`.
    """
    manifest = partition.manifest
    about = _read(store, manifest, partial(read_footer, manifest.bytes))
    origin: Mapping[str, Any] = json.loads(about.metadata[b"origin"])
    return origin


def _read(store: Store, part: Part, use: Callable[[Ranges], T]) -> T:
    """What `use` makes of ranges of the file; if it cannot, of ranges of the whole file, which is compared."""
    try:
        return use(partial(store.ranges, part.path, gap=GAP_BYTES))
    except WRONG as error:
        log.warning("%s/%s: %s; reading all of it", store.root, part.path, error)
        whole = sound_bytes(store, part)
        return use(lambda starts, sizes: [whole[at : at + size] for at, size in zip(starts, sizes, strict=True)])

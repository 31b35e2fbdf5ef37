"""Some rows and columns of a large part, read by ranges of bytes: its footer, then what is wanted of its row groups.

The footer has the ids of all rows. So only row groups with a wanted row are read, and ids cost one request.

Parquet gives pages a CRC-32, which is verified, but the footer has none. So the commit has the size and the SHA-256 of
the footer (`CellPart`). The footer alone says which rows there are and where they lie. If it is the one that was
written, no row can be lost in silence. If a page is damaged, its checksum or its header says so.
"""

import hashlib
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError

from pipeline.commit import CellPart
from schemas.arrow import IDS

Ranges = Callable[[Sequence[int], Sequence[int]], list[bytes]]  # first bytes and sizes -> the bytes there
WRONG = (pa.ArrowException, BaseError, OSError, ValueError, LookupError)  # what damaged or missing bytes raise


def excerpt(part: CellPart, ranges: Ranges, columns: Sequence[str], ids: Collection[str] | None) -> pa.Table:
    """The `columns` of the row groups that have a row whose id, its first column, is in `ids`; None: of all.

    A column that the part lacks is left out.

    Raises: one of WRONG if the bytes that are read are not those that were written.
    """
    (footer,) = ranges([part.bytes - part.footer_bytes], [part.footer_bytes])
    if hashlib.sha256(footer).hexdigest() != part.footer_sha256:
        raise ValueError("its footer is not what was written")
    about = pq.read_metadata(pa.BufferReader(footer))
    names = [about.schema.column(number).name for number in range(about.num_columns)]
    known: list[str] = json.loads(about.metadata[IDS])
    if list(columns) == names[:1]:
        return pa.table({names[0]: known})
    wanted = set(known if ids is None else ids)
    groups, chunks, start = list[int](), list[pq.ColumnChunkMetaData](), 0
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        end = start + group.num_rows
        if not wanted.isdisjoint(known[start:end]):
            groups.append(number)
            chunks += [group.column(column) for column, name in enumerate(names) if name in columns]
        start = end
    starts = [chunk.data_page_offset for chunk in chunks]
    read = ranges(starts, [chunk.total_compressed_size for chunk in chunks]) if chunks else []
    pieces = Pieces(dict(zip(starts, read, strict=True)), part.bytes)
    source = pa.PythonFile(pieces, mode="r")
    file = pq.ParquetFile(source, metadata=about, pre_buffer=False, page_checksum_verification=True)
    return file.read_row_groups(groups, columns=list(columns))


class Pieces(io.RawIOBase):
    """The pieces of a file that have been read, by their first byte. The rest of its `size` bytes cannot be read."""

    def __init__(self, pieces: Mapping[int, bytes], size: int) -> None:
        self._pieces, self._size, self._at = pieces, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Raises: KeyError if no piece begins here; ValueError if it is shorter."""
        data = self._pieces[self._at]
        if len(data) < size:
            raise ValueError(f"{len(data)} bytes instead of {size}")
        self._at += size
        return data[:size]

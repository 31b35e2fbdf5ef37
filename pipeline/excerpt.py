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
from schemas.arrow import IDS, footer_bytes

Ranges = Callable[[Sequence[int], Sequence[int]], list[bytes]]  # first bytes and sizes -> the bytes there
TAIL_BYTES = 64 << 10  # of a file; that much is read in the hope that it has the whole footer
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
    groups, start = list[int](), 0
    for number in range(about.num_row_groups):
        end = start + about.row_group(number).num_rows
        if not wanted.isdisjoint(known[start:end]):
            groups.append(number)
        start = end
    return row_groups(about, part.bytes, ranges, columns, groups)


def row_groups(
    about: pq.FileMetaData, size: int, ranges: Ranges, columns: Sequence[str], groups: Sequence[int]
) -> pa.Table:
    """These columns and row groups of a Parquet file of `size` bytes whose footer says `about`.

    Raises: as `excerpt`.
    """
    names = [about.schema.column(number).name for number in range(about.num_columns)]
    wanted = [column for column, name in enumerate(names) if name in columns]
    chunks = [about.row_group(number).column(column) for number in groups for column in wanted]
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    read = ranges(starts, [chunk.total_compressed_size for chunk in chunks]) if chunks else []
    pieces = Pieces(dict(zip(starts, read, strict=True)), size)
    source = pa.PythonFile(pieces, mode="r")
    file = pq.ParquetFile(source, metadata=about, pre_buffer=False, page_checksum_verification=True)
    return file.read_row_groups(list(groups), columns=list(columns))


def read_footer(size: int, ranges: Ranges) -> pq.FileMetaData:
    """The footer of a Parquet file of `size` bytes that no digest of its footer is known of. Raises: as `excerpt`."""
    start = max(0, size - TAIL_BYTES)
    (tail,) = ranges([start], [size - start])
    own = footer_bytes(tail)
    if own > size:
        raise ValueError(f"its footer has {own} bytes, and the file {size}")
    if own > len(tail):
        (tail,) = ranges([size - own], [own])
    return pq.read_metadata(pa.BufferReader(tail[-own:]))


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

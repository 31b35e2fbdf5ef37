"""The bytes of photos, wherever their source has them: in a tar, in files, or in the rows of a Parquet file."""

import hashlib
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError

from anything3d.errors import ConfigError, InputError, MachineError
from pipeline.input.listing import folder_of, is_folder
from pipeline.input.shard import Shard
from pipeline.location import SCHEME, StoredFile, local_folder, open_store, parse, split
from schemas.records import ImageRecord

PHOTO_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")  # of a Parquet file: names of columns of photos
PLACE_COLUMNS = ("url", "path", *PHOTO_COLUMNS)  # and of columns of their locations
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)  # what Arrow raises on a Parquet file that is none
MAX_LOCATION_BYTES = 1024  # of a photo; S3's keys may have as many


class Photos:
    """The photos of one source, by their rows."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._shard: Shard | None = None
        self._rows: Rows | None = None

    def read(self, row: ImageRecord) -> tuple[bytes, bytes]:
        """The bytes of the photo and of its annotations; none if it has no annotations.

        Raises: MachineError("shard_changed") if the bytes are not those that were indexed; FileNotFoundError if the
        source, or the photo's file, has gone.
        """
        jpg, json = self._bytes(row)
        known = hashlib.sha256(json).hexdigest() if row.json_sha256 else ""
        if (hashlib.sha256(jpg).hexdigest(), known) != (row.jpg_sha256, row.json_sha256):
            raise MachineError(
                "shard_changed",
                f"{self._source}: the bytes of {row.image_id} are not those that were indexed. If the shard was"
                " written meanwhile, run again. If it was not, its storage is damaged: restore the shard, which indexes"
                " it anew" + ("; of a list of photos, touch the list" if row.photo_in == "file" else ""),
            )
        return jpg, json

    def _bytes(self, row: ImageRecord) -> tuple[bytes, bytes]:
        if row.photo_in == "file":
            return read_file(location_of(self._source, row.photo_name), row.jpg_size), b""
        if row.photo_in == "row":
            self._rows = self._rows or Rows(self._source)
            return self._rows.photo(row.jpg_offset) or b"", b""
        self._shard = self._shard or Shard(self._source)
        ranges = [(row.jpg_offset, row.jpg_size), (row.json_offset, row.json_size)]
        jpg, json = self._shard.read_ranges(ranges)
        return jpg, json


class Rows:
    """A Parquet file that is a source."""

    def __init__(self, location: str) -> None:
        folder, name = split(location)
        reader = StoredFile(obstore.open_reader(open_store(folder), name))
        self.file = pq.ParquetFile(pa.PythonFile(reader, mode="r"), page_checksum_verification=True)
        kinds = {column.name: column.type for column in self.file.schema_arrow}
        # The first columns that have bytes of photos, and locations; "" if there are none.
        self.photos = next((name for name in PHOTO_COLUMNS if name in kinds and _has_bytes(kinds[name])), "")
        self.places = next((name for name in PLACE_COLUMNS if name in kinds and _is_text(kinds[name])), "")
        self._group, self._values = -1, pa.chunked_array([], pa.binary())

    def photo(self, row: int) -> bytes | None:
        """The photo in a row. The row group that it is in stays in memory."""
        group, first = 0, 0
        while row >= first + (rows := self.file.metadata.row_group(group).num_rows):
            group, first = group + 1, first + rows
        if group != self._group:
            self._values = self.file.read_row_group(group, columns=[self.photos]).column(0)
            self._group = group
        return bytes_of(self._values[row - first].as_py())


def bytes_of(value: Any) -> bytes | None:  # noqa: ANN401 - whatever a column has
    """The photo in a value of a Parquet file: bytes, or bytes and a path as Hugging Face's datasets have them."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) and found else None


def _has_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def location_of(source: str, name: str) -> str:
    """Where the photo `name` of a folder or a list lies. In a list, a relative path begins at the list's folder.

    Raises: InputError("photo_location") if there can be no photo.
    """
    if is_folder(source):
        return f"{folder_of(source)}/{name}"
    if len(name.encode()) > MAX_LOCATION_BYTES:
        raise InputError("photo_location", f"{name[:80]!r}... has more than {MAX_LOCATION_BYTES} bytes")
    try:
        if (scheme := SCHEME.match(name)) and scheme[1].lower() in ("http", "https"):
            raise InputError(
                "photo_location", f"{name!r}: photos on web servers are not read. Download them with img2dataset first."
            )
        local = local_folder(source) is not None
        if not scheme and name.startswith("/") and not local:
            raise InputError("photo_location", f"{name!r}: a list in a bucket may not name files of this machine")
        place = name if scheme or name.startswith("/") else f"{source.rpartition('/')[0]}/{name}"
        if parse(place).service == "local" and not local:
            raise InputError("photo_location", f"{name!r}: a list in a bucket may not name files of this machine")
        split(place)
    except ConfigError as error:
        raise InputError("photo_location", error.message) from error
    return place


def read_file(location: str, most: int) -> bytes:
    """All bytes of a file; one byte more than `most` if it has more.

    Raises: FileNotFoundError; what the storage says.
    """
    if not SCHEME.match(location):  # also under names that a bucket cannot have
        if not Path(location).is_file():  # a pipe would be waited for
            raise FileNotFoundError(f"no file {location}")
        with Path(location).open("rb") as file:
            return file.read(most + 1)
    folder, name = split(location)
    found = obstore.get(open_store(folder), name)
    if found.meta["size"] > most:
        return bytes(obstore.get_range(open_store(folder), name, start=0, length=most + 1))
    return bytes(found.bytes())


def is_damaged(location: str, error: Exception) -> bool:
    """Whether an error of Arrow is about the file: then its storage gives all of its bytes.

    Raises: the storage's error.
    """
    if isinstance(error, BaseError) or not isinstance(error, DAMAGE):
        return False
    for _ in Shard(location).windows():
        pass
    return True

"""The corpus root: immutable parts and the commits that make them exist, on local disk, S3, GCS or Azure.

A commit is written put-if-absent, so of any number of writers exactly one wins and the others adopt what it wrote.
Readers start from commits, never from listings of parts. Nothing here deletes a part.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError

from pipeline.location import open_store
from schemas.arrow import from_table, to_table

R = TypeVar("R")
ROWS_PER_GROUP = 8  # of a part: what a reader of a few objects has to fetch around them


@dataclass(frozen=True, slots=True)
class Part:
    """An immutable Parquet file of one cell."""

    path: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The small JSON that makes a cell exist. `digest` covers what the cell says, not when or how it was made."""

    stage: str
    unit: str
    fingerprint: str
    digest: str
    rows: Part
    rejects: Part
    inputs: dict[str, str]  # what was read -> its digest
    counts: dict[str, int]  # inputs, rows, skipped, failed, crashed
    attempt: str
    attempts: int
    seconds: float
    gpu_seconds: float
    versions: dict[str, str]

    @property
    def folder(self) -> str:
        """Where its cell lies."""
        return self.rows.path.rsplit("/", 1)[0]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Commit":
        values = json.loads(data)
        return cls(**{**values, "rows": Part(**values["rows"]), "rejects": Part(**values["rejects"])})


class Store:
    """One corpus. All paths are relative to its root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._store = open_store(root, create=True)

    def check(self) -> None:
        """Whatever the storage raises if nothing can be seen here: no such bucket, no right, no network."""
        next(iter(obstore.list(self._store)), None)

    # plain objects

    def read(self, path: str) -> bytes:
        return bytes(obstore.get(self._store, path).bytes())

    def find(self, path: str) -> bytes | None:
        """The bytes at `path`, or None if there is nothing."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        obstore.put(self._store, path, data)

    def create(self, path: str, data: bytes) -> bytes:
        """Put if absent: returns what lies at `path` afterwards, ours or the winner's."""
        try:
            obstore.put(self._store, path, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return self.read(path)
        return data

    def delete(self, paths: Sequence[str]) -> None:
        if paths:
            obstore.delete(self._store, list(paths))

    def paths(self, prefix: str) -> list[str]:
        found: Iterable[Sequence[Any]] = obstore.list(self._store, prefix=prefix)
        return sorted(entry["path"] for page in found for entry in page)

    # parts

    def write_part(self, folder: str, kind: str, rows: Sequence[Any], record: type[Any]) -> Part:
        """A new immutable Parquet file in `folder`; equal rows give equal bytes."""
        data = parquet_bytes(to_table(rows, record))
        part = Part(
            f"{folder}/{kind}-{uuid.uuid4().hex}.parquet", len(data), hashlib.sha256(data).hexdigest(), len(rows)
        )
        self.write(part.path, data)
        return part

    def read_part(self, part: Part, record: type[R], ids: Iterable[str] | None = None) -> list[R]:
        """The rows of a part as `record`s: all, or those whose first column is in `ids` (other groups stay unread)."""
        columns = list(record.__dataclass_fields__)  # type: ignore[attr-defined]
        with self._parquet(part.path) as file:
            if ids is None:
                return from_table(file.read(columns=columns), record)
            wanted = set(ids)
            key = columns[0]
            groups = [
                group
                for group in range(file.num_row_groups)
                if not wanted.isdisjoint(file.read_row_group(group, columns=[key]).column(0).to_pylist())
            ]
            rows = from_table(file.read_row_groups(groups, columns=columns), record)
        return [row for row in rows if getattr(row, key) in wanted]

    def read_table(self, path: str) -> pa.Table:
        with self._parquet(path) as file:
            return file.read()

    def read_column(self, part: Part, column: str) -> list[Any]:
        with self._parquet(part.path) as file:
            return file.read(columns=[column]).column(0).to_pylist()

    def _parquet(self, path: str) -> pq.ParquetFile:
        return pq.ParquetFile(pa.PythonFile(_Reader(obstore.open_reader(self._store, path)), mode="r"))

    def commit_at(self, folder: str) -> Commit | None:
        data = self.find(f"{folder}/commit.json")
        return None if data is None else Commit.from_json(data)


class _Reader(io.RawIOBase):
    """obstore's reader as a Python file: Arrow asks for `closed`, which obstore's own lacks."""

    def __init__(self, reader: "obstore.ReadableFile") -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return bytes(self._reader.read(None if size < 0 else size))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file; binary columns are stored as they are (they hold compressed formats)."""
    sink = pa.BufferOutputStream()
    compression = {field.name: "NONE" if pa.types.is_binary(field.type) else "ZSTD" for field in table.schema}
    pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP, compression=compression, use_dictionary=False)
    return sink.getvalue().to_pybytes()

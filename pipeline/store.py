"""The root of a corpus, on local disk, S3, GCS or Azure: immutable parts, and the commits that make cells exist.

A commit is written put-if-absent. So exactly one of several writers wins, and the others take what it wrote. Readers
begin at commits, never at listings of parts. Nothing here deletes a part.

Bytes that are read are compared with the digests in the commit. Of a large part that is read by ranges, these are the
digest of its footer and the checksums of its pages. A damaged cell loses its commit, so that it is computed again. The
commit is kept beside it as damaged-*.json. On a local disk, a file counts after the file and its folder have been
synced.
"""

import hashlib
import logging
import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO, TypeVar

import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, BaseError

from anything3d.errors import DamagedCell, SourceError, StorageError
from pipeline.commit import CellPart, Commit, Part
from pipeline.disk import remove, write_local
from pipeline.excerpt import WRONG, excerpt
from pipeline.location import local_folder, open_store
from schemas.arrow import footer_bytes, from_table, heavy_columns, parquet_bytes, to_table

log = logging.getLogger(__name__)
R = TypeVar("R")
WHOLE_BYTES = 1 << 20  # of a part; a larger one is not read as a whole for a few of its rows or columns,
MOST = 0.75  # unless so many of its rows are wanted: then one request and one digest cost less
GAP_BYTES = 64 << 10  # of a part; pieces that are so close take one request
PROBE, PROBED = "probe.txt", b"This file was written to see that the storage has put-if-absent.\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing says of a file."""

    bytes: int
    modified: datetime  # by the store's clock


class Store:
    """One corpus. All paths are relative to its root."""

    def __init__(self, root: str, *, create: bool = True) -> None:
        """Raises: FileNotFoundError if `root` is a local folder that is not there, unless it is to be made."""
        self.root = root
        self._store = open_store(root, create=create)
        self._folder = local_folder(root)  # None: not on a local disk
        self._probed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.root,)

    # plain objects

    def read(self, path: str) -> bytes:
        return (self._folder / path).read_bytes() if self._folder else bytes(obstore.get(self._store, path).bytes())

    def ranges(self, path: str, starts: Sequence[int], sizes: Sequence[int], gap: int = 1 << 20) -> list[bytes]:
        """Some ranges of bytes of the file at `path`. Those that are at most `gap` bytes apart take one request.

        Raises: FileNotFoundError if there is none.
        """
        read = obstore.get_ranges(self._store, path, starts=starts, lengths=sizes, coalesce=gap)
        return [bytes(data) for data in read]

    def find(self, path: str) -> bytes | None:
        """The bytes at `path`, or None if there is nothing."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        if self._folder:
            write_local(self._folder / path, data, replace=True)
        else:
            obstore.put(self._store, path, data)

    def write_file(self, path: str, file: BinaryIO) -> None:
        """As `write`, of an open file from its beginning to its end, which may be larger than the memory."""
        file.seek(0)
        if self._folder:
            write_local(self._folder / path, file, replace=True)
        else:
            obstore.put(self._store, path, file)

    def copy(self, path: str, other: str) -> None:
        """Let the bytes at `path` lie at `other`, too. On a local disk the two are one file with two names."""
        obstore.copy(self._store, path, other)

    def create(self, path: str, data: bytes) -> bytes:
        """Put if absent: returns what lies at `path` afterwards, ours or the winner's.

        Raises: StorageError("put_if_absent") if the storage has no such thing.
        """
        self.probe()
        return data if self._put_if_absent(path, data) else self.read(path)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete the files; those that have gone already are no error. On a local disk, empty folders go with them."""
        if self._folder:
            remove(self._folder, paths)
        if self._folder or not paths:
            return
        try:
            obstore.delete(self._store, list(paths))
        except FileNotFoundError:  # the storage stops at the first that has gone
            for path in paths:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, [path])

    def paths(self, prefix: str) -> list[str]:
        return sorted(self.entries(prefix))

    def entries(self, prefix: str) -> dict[str, Entry]:
        """What lies below a folder, by path."""
        return dict(self.listing(prefix))

    def listing(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """As `entries`, page by page: for a folder of many files. The files of a folder in it follow each other."""
        pages: Iterable[Sequence[Any]] = obstore.list(self._store, prefix=prefix)
        for page in pages:
            for entry in page:
                yield entry["path"], Entry(entry["size"], entry["last_modified"])

    def size(self, path: str) -> int | None:
        """Bytes of the file at `path`; None if there is none."""
        try:
            return int(obstore.head(self._store, path)["size"])
        except FileNotFoundError:
            return None

    def some(self, prefix: str = "") -> list[str]:
        """A few paths of what lies below a folder; none if there is nothing."""
        return [entry["path"] for entry in next(iter(obstore.list(self._store, prefix=prefix or None)), [])]

    def _put_if_absent(self, path: str, data: bytes) -> bool:
        """Whether it was absent, and now is `data`."""
        try:
            if self._folder:
                write_local(self._folder / path, data, replace=False)
            else:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, FileExistsError):
            return False
        return True

    def probe(self) -> None:
        """Try once whether the storage keeps the promise that all commits stand on.

        Raises: StorageError("put_if_absent") if it has no put-if-absent.
        """
        if self._probed:
            return
        refusal = f"{self.root}: this storage has no put-if-absent (If-None-Match); two runs could overwrite each other"
        try:  # the first may find the file of an earlier probe; the second must find one
            self._put_if_absent(PROBE, PROBED)
            honest = not self._put_if_absent(PROBE, PROBED)
        except NotImplementedError as error:
            raise StorageError("put_if_absent", refusal) from error
        except BaseError as error:
            if not re.search(r"NotImplemented|\b501 Not Implemented", str(error)):
                raise
            raise StorageError("put_if_absent", refusal) from error
        if not honest:
            raise StorageError("put_if_absent", refusal)
        self._probed = True

    # parts

    def write_part(self, folder: str, kind: str, rows: Sequence[Any], record: type[Any]) -> CellPart:
        """A new immutable Parquet file in `folder`; equal rows give equal bytes."""
        data = parquet_bytes(to_table(rows, record))
        part = CellPart(f"{folder}/{kind}-{uuid.uuid4().hex}.parquet", len(data), _sha256(data), len(rows))
        if len(data) > WHOLE_BYTES:
            footer = data[-footer_bytes(data) :]
            part = replace(part, footer_bytes=len(footer), footer_sha256=_sha256(footer))
        self.write(part.path, data)
        return part

    def read_part(
        self, part: CellPart, record: type[R], ids: Iterable[str] | None = None, heavy: Collection[str] | None = None
    ) -> list[R]:
        """The rows of a part as `record`s: all, or those whose first column is in `ids`.

        Of the record's columns of bytes only those in `heavy` are read (None: all). The others are None in the rows. Of
        a large part only the row groups are read that may have a wanted row, and of these only the wanted columns.

        Raises: DamagedCell if the part is not what its commit says; SourceError("corpus_format") if it was written for
        another version of `record`.
        """
        unread = [] if heavy is None else [name for name in heavy_columns(record) if name not in heavy]
        columns = [column.name for column in fields(record) if column.name not in unread]  # type: ignore[arg-type]
        wanted = None if ids is None else set(ids)
        some = bool(unread) or (wanted is not None and len(wanted) < MOST * part.rows)
        table = self._table(part, columns, wanted, some)
        try:
            if wanted is not None and columns[0] in table.column_names:
                table = table.filter(pc.is_in(table[columns[0]], pa.array(list(wanted), pa.string())))
            return from_table(table, record, unread)
        except ValueError as error:
            says = f"{self.root}/{part.path} was written by another version: {error}; run with another --out"
            raise SourceError("corpus_format", says) from error

    def read_part_table(self, part: CellPart) -> pa.Table:
        """All columns of a part. Raises: DamagedCell as `read_part`."""
        return self._sound(part).read()

    def read_column(self, part: CellPart, column: str) -> list[Any]:
        """One column of a part. Of a large part only that column is read, or of the ids only the footer.

        Raises: DamagedCell as `read_part`.
        """
        return self._table(part, [column], None, True)[column].to_pylist()

    def read_whole(self, part: Part) -> bytes | None:
        """The bytes of a part if they are what was written; read twice before they are called damaged."""
        for _ in range(2):
            data = self.find(part.path)
            if data is not None and len(data) == part.bytes and _sha256(data) == part.sha256:
                return data
        return None

    def read_table(self, path: str) -> pa.Table:
        """A Parquet file that belongs to no cell."""
        return pq.ParquetFile(pa.BufferReader(self.read(path)), page_checksum_verification=True).read()

    def _table(self, part: CellPart, columns: list[str], ids: set[str] | None, some: bool) -> pa.Table:
        """As `excerpt`, if only `some` of a large part is wanted; otherwise these columns of all its rows."""
        if some and part.footer_bytes:
            try:
                return excerpt(part, partial(self.ranges, part.path, gap=GAP_BYTES), columns, ids)
            except WRONG as error:
                log.warning("%s/%s: %s; reading all of it", self.root, part.path, error)
        is_large = part.footer_bytes > 0  # for a small one, threads cost more than they save
        return self._sound(part).read(columns=columns, use_threads=is_large)

    def _sound(self, part: CellPart) -> pq.ParquetFile:
        """A part whose bytes are those that the commit states."""
        data = self.read_whole(part)
        if data is not None:
            return pq.ParquetFile(pa.BufferReader(data))
        size, folder = self.size(part.path), part.path.rpartition("/")[0]
        wrong = "has gone" if size is None else f"is damaged ({size} bytes, {part.bytes} were written)"
        self._set_commit_aside(folder, part)
        raise DamagedCell("damaged_part", f"{self.root}/{part.path} {wrong}. {folder} has to be computed again.")

    # commits

    def commit_at(self, folder: str) -> Commit | None:
        """The commit of the cell in `folder`; None if there is none. One that is damaged is set aside, and said."""
        path = f"{folder}/commit.json"
        data = self.find(path)
        if data is None:
            return None
        try:
            return Commit.from_json(data)
        except ValueError as error:
            log.warning("%s/%s is damaged (%s); its cell will be computed again", self.root, path, error)
            self._set_aside(path, data)
            return None

    def create_commit(self, folder: str, commit: Commit) -> Commit:
        """Put the commit if there is none; the one that stands."""
        path, data = f"{folder}/commit.json", commit.to_json()
        if (stands := self.create(path, data)) == data:
            return commit
        try:
            return Commit.from_json(stands)
        except ValueError as error:
            self._set_aside(path, stands)
            raise DamagedCell("damaged_commit", f"{self.root}/{path}: {error}") from error

    def _set_commit_aside(self, folder: str, part: CellPart) -> None:
        """If the commit still names the damaged part: somebody else may have computed the cell again."""
        path = f"{folder}/commit.json"
        data, commit = self.find(path), self.commit_at(folder)
        if data is not None and commit is not None and part in (commit.rows, commit.rejects):
            self._set_aside(path, data)

    def _set_aside(self, path: str, data: bytes) -> None:
        self.write(f"{path.rpartition('/')[0]}/damaged-{uuid.uuid4().hex}.json", data)
        if self.find(path) == data:
            self.delete([path])


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""Photos without annotations: those of folders, of lists, of Parquet files, and of tars that are no SA-1B shards.

Each gives an ImageRecord for every photo, and (item, why) for all else.
"""

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Literal, TypeVar

from obstore.exceptions import PermissionDeniedError

from anything3d.errors import Anything3DError, InputError, MachineError, Skipped
from pipeline.input import listing
from pipeline.input.fetch import DAMAGE, Rows, bytes_of, is_damaged, location_of, read_file
from pipeline.input.ids import photo_id
from pipeline.input.listing import DEEP, folder_of
from pipeline.input.shard import Shard
from pipeline.input.source import MAX_LIST_BYTES, is_photo, kind, stem
from pipeline.input.tar import Member, Piece
from pipeline.location import parse
from schemas.records import ImageRecord

NO_FILE = (errno.ENAMETOOLONG, errno.ELOOP)
READERS = 16  # threads that read photos
ROWS_AT_ONCE = 16  # of a Parquet file whose photos are looked at

Item = TypeVar("Item")
Found = ImageRecord | tuple[str, Anything3DError]


def of_tar(pieces: Iterable[Piece], shard: str, max_bytes: int) -> Iterator[Found]:
    """Photos under any names. What belongs to the sample of a photo, as WebDataset has it, is not looked at."""
    pieces = list(pieces)
    members = [piece.content for piece in pieces if isinstance(piece.content, Member)]
    samples = {_sample(member.name) for member in members if is_photo(member.name)}
    for piece in pieces:
        member = piece.content
        if isinstance(member, InputError):
            yield f"{shard}@byte {piece.start}", member
        elif member is not None and is_photo(member.name):
            name = member.name.rpartition(".")[0]
            yield _photo(
                photo_id(shard, name), shard, member.name, member.size, member.sha256, max_bytes, offset=member.offset
            )
        elif member is not None and _sample(member.name) not in samples:
            no_photo = InputError("foreign_member", f"{member.name!r} is no photo, and beside none")
            yield f"{shard}@byte {member.offset}", no_photo


def of_source(location: str, max_bytes: int, most: int | None = None) -> Iterator[Found]:
    """The photos of a folder, a list or a Parquet file. With `most`, only its first so many places are looked at."""
    shard = stem(location)
    match kind(location):
        case "folder":
            yield from _of_folder(location, shard, max_bytes, most)
        case "list":
            listed = Shard(location)
            if listed.size > MAX_LIST_BYTES:
                too_long = f"{listed.size} bytes; a list may have {MAX_LIST_BYTES}. Cut it into several lists."
                yield shard, InputError("list_too_long", too_long)
                return
            lines = listed.read(0, listed.size).removeprefix(b"\xef\xbb\xbf").split(b"\n")
            named = [(f"line {number}", line) for number, line in enumerate(map(bytes.strip, lines), 1) if line]
            yield from _of_places(location, shard, named[:most], max_bytes)
        case _:
            yield from _of_parquet(location, shard, max_bytes, most)


def once(found: Iterable[Found]) -> Iterator[Found]:
    """Each photo once: a second one of the same id is a reject."""
    names: dict[str, str] = {}
    for one in found:
        if isinstance(one, ImageRecord) and one.image_id in names:
            twice = f"{one.photo_name!r} would have the id of {names[one.image_id]!r}; the first one counts"
            yield one.image_id, InputError("duplicate_id", twice)
            continue
        if isinstance(one, ImageRecord):
            names[one.image_id] = one.photo_name
        yield one


def _of_folder(location: str, shard: str, max_bytes: int, most: int | None) -> Iterator[Found]:
    photos: list[str] = []
    for file in listing.files(location):
        if file.name.endswith("/"):
            deeper = f"{file.name!r} is a folder. Give {folder_of(location)}{DEEP} if its photos are wanted, too"
            yield f"{shard}@{file.name!r}", Skipped("not_a_photo", deeper)
        elif not is_photo(file.name):
            yield f"{shard}@{file.name!r}", Skipped("not_a_photo", f"{file.name!r} has no ending of a photo")
        elif not file.name.isascii() and file.name != file.name.encode(errors="replace").decode():
            yield f"{shard}@{file.name!r}", InputError("photo_location", f"{file.name!r} is not UTF-8")
        else:
            photos.append(file.name)

    def look(name: str) -> Found:
        image_id = photo_id(shard, name.rpartition(".")[0])
        return _file(location, shard, name, image_id, image_id, max_bytes)

    yield from _each(look, photos[:most])


def _of_places(location: str, shard: str, places: Sequence[tuple[str, bytes]], max_bytes: int) -> Iterator[Found]:
    """The photos at the places that a list names, each with its place in the list."""
    denied: dict[str, str] = {}  # place in the list -> location
    answered = set[tuple[str, str]]()  # buckets

    def look(place: tuple[str, bytes]) -> Found:
        at, data = place
        item = f"{shard}@{at}"
        try:
            name = data.decode()
            there = location_of(location, name)
        except UnicodeDecodeError:
            return item, InputError("photo_location", f"{data[:80]!r} is not UTF-8")
        except InputError as error:
            return item, error
        try:
            found = _file(location, shard, name, photo_id(shard, name, unique=False), item, max_bytes)
        except PermissionDeniedError:
            denied[item] = there
            return item, InputError("denied_photo", f"{there} may not be read, or is not there")
        answered.add(_bucket(there))
        return found

    looked = list(_each(look, places))
    for item, there in sorted(denied.items()):
        if _bucket(there) not in answered:
            raise MachineError("storage_failed", f"{item}: no photo of {there.rpartition('/')[0]} may be read.")
    yield from looked


def _of_parquet(location: str, shard: str, max_bytes: int, most: int | None) -> Iterator[Found]:
    try:
        rows = Rows(location)
        if not rows.photos and not rows.places:
            has = ", ".join(rows.file.schema_arrow.names[:20])
            yield (
                shard,
                InputError("no_photo_column", f"its columns are {has}; one of url, path, image or jpg is wanted"),
            )
            return
        if rows.photos:
            yield from list(islice(_of_rows(rows, shard, max_bytes), most))
            return
        table = rows.file.read(columns=[rows.places]).column(0).to_pylist()
    except DAMAGE as error:
        if not is_damaged(location, error):
            raise
        yield shard, InputError("damaged_parquet", f"{location}: {(str(error).splitlines() or [''])[0][:200]}")
        return
    named = [(f"row {number}", value) for number, value in enumerate(table)]
    for at, value in named:
        if not isinstance(value, str) or not value:
            yield f"{shard}@{at}", InputError("missing_photo", f"{rows.places} is {str(value)[:80]!r}")
    places = [(at, value.encode(errors="replace")) for at, value in named if isinstance(value, str) and value]
    yield from _of_places(location, shard, places[:most], max_bytes)


def _of_rows(rows: Rows, shard: str, max_bytes: int) -> Iterator[Found]:
    row = -1
    for batch in rows.file.iter_batches(ROWS_AT_ONCE, columns=[rows.photos]):
        for value in batch.column(0):
            row, data = row + 1, bytes_of(value.as_py())
            if data is None:
                yield f"{shard}@row {row}", InputError("missing_photo", f"{rows.photos} has no bytes in row {row}")
            else:
                digest = hashlib.sha256(data).hexdigest()
                image_id = photo_id(shard, f"{row:09d}")
                yield _photo(image_id, shard, str(row), len(data), digest, max_bytes, offset=row, photo_in="row")


def _each(look: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    with ThreadPoolExecutor(READERS) as threads:
        yield from threads.map(look, items)


def _file(source: str, shard: str, name: str, image_id: str, item: str, max_bytes: int) -> Found:
    """A photo that is a file of its own; `item` is what it is called if it is none."""
    there = location_of(source, name)
    try:
        data = read_file(there, max_bytes)
    except PermissionError as error:  # of a local disk
        return item, InputError("denied_photo", f"{there} may not be read: {error.strerror}")
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError) and error.errno not in NO_FILE:
            raise
        return item, InputError("missing_photo", f"there is no file {there}")
    return _photo(image_id, shard, name, len(data), hashlib.sha256(data).hexdigest(), max_bytes, photo_in="file")


def _photo(
    image_id: str,
    shard: str,
    name: str,
    size: int,
    sha256: str,
    max_bytes: int,
    *,
    offset: int = 0,
    photo_in: Literal["shard", "file", "row"] = "shard",
) -> Found:
    if size > max_bytes:
        allowed = f"{name!r} has more than the {max_bytes} bytes that index.max_member_bytes allows"
        return image_id, InputError("oversize_member", allowed)
    return ImageRecord(image_id, shard, offset, size, sha256, 0, 0, "", photo_in, name)


def _sample(name: str) -> str:
    """WebDataset's key of a member: up to the first dot of its file name."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _bucket(location: str) -> tuple[str, str]:
    at = parse(location)
    return at.service, at.bucket

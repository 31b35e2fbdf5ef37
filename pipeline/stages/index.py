"""The stage index finds the photos of a source. In an SA-1B shard it pairs them with their annotations.

SA-1B's members are `./sa_<number>.jpg` and `.json`, in any order. A tar that has such a member is an SA-1B shard. The
photos of all other sources have no annotations (pipeline/input/gather.py). Defects become rejects.

Only the cell of this stage is named by the path and the time stamp of its shard. What it writes names the bytes.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from anything3d.errors import InputError, Skipped
from anything3d.models.weights import Place
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config, IndexConfig
from pipeline.input.gather import Found, of_source, of_tar, once
from pipeline.input.prompts import read_prompts
from pipeline.input.shard import Shard
from pipeline.input.source import PROMPTS, is_photo, kind, stem
from pipeline.input.tar import Digest, Member, Piece, scan
from pipeline.unit import Unit
from schemas.records import ImageRecord, RejectRecord

MEMBER_NAME = re.compile(r"^(sa_\d{1,10})\.(jpg|json)$")


class IndexStage:
    name = "index"
    version = 2
    record = ImageRecord

    def __init__(self, config: Config, place: Place) -> None:
        del place
        self._config = config.index

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        del config
        return ("shard", "md5")

    @staticmethod
    def weights(config: IndexConfig) -> tuple[str, ...]:
        del config
        return ()

    def __call__(self, items: Sequence[str], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        del items, checkpoint  # the unit is the shard
        location, md5 = unit.inputs["shard"].path, unit.inputs["md5"].digest
        whole = hashlib.md5(usedforsecurity=False) if md5 else None
        rows: list[ImageRecord] = []
        rejects: list[RejectRecord] = []
        for one in look(location, self._config, whole):
            if isinstance(one, ImageRecord):
                rows.append(one)
            else:
                item, error = one
                rejects.append(RejectRecord(item, self.name, error.kind, error.reason, error.message, 1))
        if whole is not None and whole.hexdigest() != md5:
            also = f"; {rejects[0].message}" if rejects else ""
            said = f"the list says MD5 {md5}, the shard has {whole.hexdigest()}; download it again{also}"
            return [InputError("md5_mismatch", f"{location}: {said}")]
        no_member = (
            "the shard has no member" if kind(location) == "tar" else "there is no photo and no other file in it"
        )
        empty = RejectRecord(stem(location), self.name, "skipped", "empty_shard", no_member, 1)
        return [[*rows, *rejects] or [empty]]


def look(location: str, config: IndexConfig, whole: Digest | None = None, most: int | None = None) -> Iterator[Found]:
    """The photos of a source, each with its prompts, and (item, why) for all else.

    The bytes of the source's file are fed to `whole`. With `most`, nothing is read behind about so many photos.
    """
    found = list(_found(location, config, whole, most))
    prompts, wrong = read_prompts(location)
    for one in found:
        yield replace(one, prompts=prompts.get(one.photo_name)) if isinstance(one, ImageRecord) else one
    yield from wrong
    names = {one.photo_name for one in found if isinstance(one, ImageRecord)}
    for name in prompts:
        if name not in names:
            unused = Skipped("prompts_unused", f"there is no photo {name!r} without annotations")
            yield f"{stem(location)}{PROMPTS}", unused


def _found(location: str, config: IndexConfig, whole: Digest | None, most: int | None) -> Iterator[Found]:
    shard = stem(location)
    if kind(location) == "tar":
        scanned = scan(Shard(location), whole)
        pieces = list(scanned if most is None else until(scanned, most))
        names = [piece.content.name for piece in pieces if isinstance(piece.content, Member)]
        if not any(is_photo(name) for name in names) or any(map(MEMBER_NAME.match, names)):
            return pair(pieces, shard, config)
        return once(of_tar(pieces, shard, config.max_member_bytes))
    if whole is not None:
        for window in Shard(location).windows():
            whole.update(window)
    return once(of_source(location, config.max_member_bytes, most))


def until(pieces: Iterable[Piece], photos: int) -> Iterator[Piece]:
    """The pieces up to the one with which so many photos are whole: those of SA-1B with their annotations."""
    whole, halves = 0, set[str]()
    for piece in pieces:
        yield piece
        if isinstance(piece.content, Member):
            match = MEMBER_NAME.match(piece.content.name)
            whole += match[1] in halves if match else is_photo(piece.content.name)
            halves.update(match.groups()[:1] if match else ())
        if whole == photos:
            return


def pair(pieces: Iterable[Piece], shard: str, config: IndexConfig) -> Iterator[ImageRecord | tuple[str, InputError]]:
    """Photos with their annotations, by stem, in the order of the stems' first appearance; all else as (id, defect)."""
    halves: dict[str, dict[str, Member]] = {}
    oversize: set[str] = set()  # stems whose half is there, but unusable
    for piece in pieces:
        member = piece.content
        if member is None:
            continue
        if isinstance(member, InputError):
            yield f"{shard}@byte {piece.start}", member
            continue
        match = MEMBER_NAME.match(member.name)
        if match is None:
            yield (
                f"{shard}@byte {member.offset}",
                InputError("foreign_member", f"{member.name!r} is not sa_<number>.jpg|json"),
            )
        elif member.size > config.max_member_bytes:
            oversize.add(match[1])
            yield (
                match[1],
                InputError(
                    "oversize_member",
                    f"{member.name}: {member.size} bytes, at most {config.max_member_bytes} (index.max_member_bytes)",
                ),
            )
        elif match[2] in halves.setdefault(match[1], {}):
            yield (
                match[1],
                InputError("duplicate_id", f"second {member.name} at byte {member.offset}; the first one counts"),
            )
        else:
            halves[match[1]][match[2]] = member
    for image_id, half in halves.items():
        if len(half) == 2:
            jpg, json = half["jpg"], half["json"]
            yield ImageRecord(image_id, shard, jpg.offset, jpg.size, jpg.sha256, json.offset, json.size, json.sha256)
        elif half and image_id not in oversize:
            message = f"{image_id} has only its {next(iter(half))}."
            yield image_id, InputError("missing_json" if "jpg" in half else "missing_jpg", message)

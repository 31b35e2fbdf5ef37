"""The stage index finds the members of a shard and pairs photos with their annotations. Defects become rejects.

SA-1B's members are `./sa_<number>.jpg` and `.json`, in any order.

Only the cell of this stage is named by the path and the time stamp of its shard. What it writes names the bytes.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

from anything3d.errors import InputError
from anything3d.models.weights import Place
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config, IndexConfig
from pipeline.shard import Shard
from pipeline.source import stem
from pipeline.tar import Member, Piece, scan
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
        for paired in pair(scan(Shard(location), whole), stem(location), self._config):
            if isinstance(paired, ImageRecord):
                rows.append(paired)
            else:
                item, error = paired
                rejects.append(RejectRecord(item, self.name, error.kind, error.reason, error.message, 1))
        if whole is not None and whole.hexdigest() != md5:
            also = f"; {rejects[0].message}" if rejects else ""
            said = f"the list says MD5 {md5}, the shard has {whole.hexdigest()}; download it again{also}"
            return [InputError("md5_mismatch", f"{location}: {said}")]
        empty = RejectRecord(stem(location), self.name, "skipped", "empty_shard", "the shard has no member", 1)
        return [[*rows, *rejects] or [empty]]


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

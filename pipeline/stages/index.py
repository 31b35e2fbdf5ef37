"""index: the members of a shard as byte ranges, photos paired with their annotations; defects become rejects.

This is the only stage whose cell is named by the shard's place and time stamp: what it writes names the bytes.
"""

import hashlib
from collections.abc import Sequence

from anything3d.errors import InputError
from anything3d.models.weights import Place
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.source import IndexConfig, Shard, pair, scan, stem
from pipeline.unit import Unit
from schemas.records import ImageRecord, RejectRecord


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
        for found in pair(scan(Shard(location), whole), stem(location), self._config):
            if isinstance(found, ImageRecord):
                rows.append(found)
            else:
                item, error = found
                rejects.append(RejectRecord(item, self.name, error.kind, error.reason, error.message, 1))
        if whole is not None and whole.hexdigest() != md5:
            also = f"; {rejects[0].message}" if rejects else ""
            said = f"the list says MD5 {md5}, the shard has {whole.hexdigest()}; download it again{also}"
            return [InputError("md5_mismatch", f"{location}: {said}")]
        empty = RejectRecord(stem(location), self.name, "skipped", "empty_shard", "the shard has no member", 1)
        return [[*rows, *rejects] or [empty]]

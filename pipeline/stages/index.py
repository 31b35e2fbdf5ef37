"""index: the members of a shard as byte ranges, photos paired with their annotations; defects become rejects."""

from collections.abc import Sequence

from anything3d.weights import Place
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.source import IndexConfig, Shard, pair, scan, stem
from pipeline.unit import Unit
from schemas.records import ImageRecord, RejectRecord


class IndexStage:
    name = "index"
    version = 1
    reads = ("shard",)
    record = ImageRecord

    def __init__(self, config: Config, place: Place) -> None:
        del place
        self._config = config.index

    @staticmethod
    def weights(config: IndexConfig) -> tuple[str, ...]:
        del config
        return ()

    def __call__(self, items: Sequence[str], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        del items, checkpoint  # the unit is the shard
        location = unit.inputs["shard"].path
        rows: list[ImageRecord | RejectRecord] = []
        for found in pair(scan(Shard(location)), stem(location), self._config):
            if isinstance(found, ImageRecord):
                rows.append(found)
            else:
                item, error = found
                rows.append(RejectRecord(item, self.name, error.kind, error.reason, error.message, 1))
        empty = RejectRecord(stem(location), self.name, "skipped", "empty_shard", "the shard has no member", 1)
        return [rows or [empty]]

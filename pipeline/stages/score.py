"""The stage score compares every object with its photo, and with the ground truth beside its shard if there is one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anything3d.errors import Anything3DError
from anything3d.models.weights import Place
from anything3d.settings.score import ScoreConfig
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.rows import reconstruction, score_row
from pipeline.stages.reconstruct import ReconstructStage
from pipeline.unit import Unit
from schemas.records import CloudRecord, FieldRecord, MeshRecord, ObjectRecord, ScoreRecord

if TYPE_CHECKING:
    from anything3d.score import Scored
    from pipeline.truth import Shown

Item = tuple[ObjectRecord, FieldRecord, MeshRecord] | tuple[ObjectRecord, FieldRecord, MeshRecord, CloudRecord]


class ScoreStage:
    name = "score"
    version = 11
    record = ScoreRecord

    def __init__(self, config: Config, place: Place) -> None:
        from anything3d.score import load_scorer

        self._seed = config.seed
        self._scorer = load_scorer(config.score, place)

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        lift = ("lift",) if "lift" in ReconstructStage.reads(config) else ()
        return ("segment", "reconstruct", "mesh", *lift, "truth")

    @staticmethod
    def weights(config: ScoreConfig) -> tuple[str, ...]:
        return (config.clip_weights, config.dino_weights)

    def __call__(self, items: Sequence[Item], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        from anything3d.seed import generators
        from pipeline.truth import find_truth, read_target, read_truth

        rows, known = [item[0] for item in items], unit.inputs["truth"]
        shown = [find_truth(row, read_truth(known.path, known.digest)) if known.digest else None for row in rows]
        targets = [read_target(true, known.path) if true else None for true in shown]
        randomness = generators(self._seed, self.name, [row.object_id for row in rows])
        made = [reconstruction(row, shape, mesh, cloud[0] if cloud else None) for row, shape, mesh, *cloud in items]
        outcomes = self._scorer(made, targets, randomness)
        return [
            scored if isinstance(scored, Anything3DError) else [_row(row.object_id, scored, true)]
            for row, scored, true in zip(rows, outcomes, shown, strict=True)
        ]


def _row(object_id: str, scored: "Scored", true: "Shown | None") -> ScoreRecord:
    return score_row(object_id, scored, true.item.caption if true else None, true.mask_iou if true else None)

"""The stage score compares every object with its photo, and with the ground truth beside its shard if there is one."""

from collections.abc import Sequence

from anything3d.errors import Anything3DError
from anything3d.models.weights import Place
from anything3d.photo.image import crops_from_png
from anything3d.score import Reconstruction, ScoreConfig, Scored, load_scorer
from anything3d.seed import generators
from anything3d.space.cloud import from_ply
from anything3d.space.field import Field
from anything3d.space.mesh import from_glb
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.rows import score_row
from pipeline.stages.lift import reference_cameras
from pipeline.truth import Shown, find_truth, read_target, read_truth
from pipeline.unit import Unit
from schemas.records import CloudRecord, FieldRecord, MeshRecord, ObjectRecord, ScoreRecord

Item = tuple[ObjectRecord, CloudRecord, FieldRecord, MeshRecord]


class ScoreStage:
    name = "score"
    version = 4
    record = ScoreRecord

    def __init__(self, config: Config, place: Place) -> None:
        self._seed = config.seed
        self._scorer = load_scorer(config.score, place)

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        del config
        return ("segment", "lift", "reconstruct", "mesh", "truth")

    @staticmethod
    def weights(config: ScoreConfig) -> tuple[str, ...]:
        return (config.clip_weights,)

    def __call__(self, items: Sequence[Item], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        rows, known = [item[0] for item in items], unit.inputs["truth"]
        shown = [find_truth(row, read_truth(known.path, known.digest)) if known.digest else None for row in rows]
        targets = [read_target(true, known.path) if true else None for true in shown]
        randomness = generators(self._seed, self.name, [row.object_id for row in rows])
        outcomes = self._scorer([reconstruction(item) for item in items], targets, randomness)
        return [
            scored if isinstance(scored, Anything3DError) else [_row(row.object_id, scored, true)]
            for row, scored, true in zip(rows, outcomes, shown, strict=True)
        ]


def reconstruction(item: Item) -> Reconstruction:
    """One object as its rows have it."""
    row, cloud, field, mesh = item
    return Reconstruction(
        crop=crops_from_png([row.crop_png])[0],
        reference=reference_cameras([cloud]),
        cloud=from_ply(cloud.cloud_ply),
        field=Field.from_bytes(field.field),
        mesh=from_glb(mesh.glb),
    )


def _row(object_id: str, scored: Scored, true: Shown | None) -> ScoreRecord:
    return score_row(object_id, scored, true.item.caption if true else None, true.mask_iou if true else None)

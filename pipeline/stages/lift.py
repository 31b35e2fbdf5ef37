"""The stage lift makes a coloured cloud of every crop, and finds the camera that sees it as the photo does.

Source: Point-E, Nichol et al. 2022.
"""

from collections.abc import Sequence

from anything3d.backend import LIFTERS, load_lifter
from anything3d.errors import Anything3DError
from anything3d.models.weights import Place
from anything3d.settings.lift import LiftConfig
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.rows import cloud_row
from pipeline.unit import Unit
from schemas.records import CloudRecord, ObjectRecord


class LiftStage:
    name = "lift"
    version = 3
    record = CloudRecord

    def __init__(self, config: Config, place: Place) -> None:
        self._seed = config.seed
        self._lifter = load_lifter(config.lift, place, config.resources.lift.batch_clouds)

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        del config
        return ("segment",)

    @staticmethod
    def weights(config: LiftConfig) -> tuple[str, ...]:
        return LIFTERS[config.backend].weights(config)

    def __call__(self, items: Sequence[tuple[ObjectRecord]], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        from anything3d.photo.image import crops_from_png, unseen_from_png
        from anything3d.seed import generators

        objects = [item[0] for item in items]
        crops = crops_from_png([row.crop_png for row in objects])
        unseen = unseen_from_png([row.unseen_png for row in objects], crops.shape[-1])
        outcomes = self._lifter(crops, generators(self._seed, self.name, [row.object_id for row in objects]), unseen)
        return [
            lifted if isinstance(lifted, Anything3DError) else [cloud_row(row.object_id, lifted)]
            for row, lifted in zip(objects, outcomes, strict=True)
        ]

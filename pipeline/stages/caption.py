"""The stage caption writes one sentence about every crop.

Source: BLIP, Li et al. 2022; T = BLIP(I') of Anything-3D.
"""

from collections.abc import Sequence

from anything3d.backend import CAPTIONERS, load_captioner
from anything3d.errors import Anything3DError
from anything3d.models.weights import Place
from anything3d.settings.caption import CaptionConfig
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.rows import caption_row
from pipeline.unit import Unit
from schemas.records import CaptionRecord, ObjectRecord


class CaptionStage:
    name = "caption"
    version = 2
    record = CaptionRecord

    def __init__(self, config: Config, place: Place) -> None:
        self._seed = config.seed
        self._captioner = load_captioner(config.caption, place)

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        del config
        return ("segment",)

    @staticmethod
    def weights(config: CaptionConfig) -> tuple[str, ...]:
        return CAPTIONERS[config.backend].weights(config)

    def __call__(self, items: Sequence[tuple[ObjectRecord]], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        from anything3d.photo.image import crops_from_png
        from anything3d.seed import generators

        objects = [item[0] for item in items]
        crops = crops_from_png([row.crop_png for row in objects])
        captions = self._captioner(crops, generators(self._seed, self.name, [row.object_id for row in objects]))
        return [
            caption if isinstance(caption, Anything3DError) else [caption_row(row.object_id, caption)]
            for row, caption in zip(objects, captions, strict=True)
        ]

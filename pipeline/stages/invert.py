"""The stage invert finds e*, the prompt embedding with which the frozen denoiser explains a crop best.

Source: Gal et al. 2022.
"""

from collections.abc import Sequence

from anything3d.errors import Anything3DError
from anything3d.models.weights import Place
from anything3d.settings.invert import InvertConfig
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.rows import concept_row
from pipeline.unit import Unit
from schemas.records import CaptionRecord, ConceptRecord, ObjectRecord


class InvertStage:
    name = "invert"
    version = 1
    record = ConceptRecord

    def __init__(self, config: Config, place: Place) -> None:
        from anything3d.invert import load_inverter

        self._seed = config.seed
        self._inverter = load_inverter(config.invert, place)

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        del config
        return ("segment", "caption")

    @staticmethod
    def weights(config: InvertConfig) -> tuple[str, ...]:
        return (config.weights,)

    def __call__(
        self, items: Sequence[tuple[ObjectRecord, CaptionRecord]], unit: Unit, checkpoint: Checkpoint
    ) -> list[Outcome]:
        from anything3d.photo.image import crops_from_png
        from anything3d.seed import generators

        objects, captions = zip(*items, strict=True)
        outcomes = self._inverter(
            crops_from_png([row.crop_png for row in objects]),
            [row.caption for row in captions],
            generators(self._seed, self.name, [row.object_id for row in objects]),
            [row.keyword for row in captions],
            checkpoint.at,
        )
        return [
            inverted if isinstance(inverted, Anything3DError) else [concept_row(row.object_id, inverted)]
            for row, inverted in zip(objects, outcomes, strict=True)
        ]

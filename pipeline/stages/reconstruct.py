"""The stage reconstruct distils a radiance field from the denoiser, under the cloud, and compares it with the crop.

Source: SDS, Poole et al. 2022.
"""

import logging
from collections.abc import Sequence

from anything3d.errors import InputError, NumericsError
from anything3d.models.concept import concepts_from_bytes
from anything3d.models.weights import Place
from anything3d.photo.image import crops_from_png
from anything3d.reconstruct import Evidence, ReconstructConfig, load_reconstructor
from anything3d.seed import generators
from anything3d.space.cloud import from_plies
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.rows import field_row
from pipeline.stages.lift import reference_cameras
from pipeline.unit import Unit
from schemas.records import CloudRecord, ConceptRecord, FieldRecord, ObjectRecord

log = logging.getLogger(__name__)
Item = tuple[ObjectRecord, ConceptRecord, CloudRecord]


class ReconstructStage:
    name = "reconstruct"
    version = 4
    record = FieldRecord

    def __init__(self, config: Config, place: Place) -> None:
        self._seed, self._steps = config.seed, config.reconstruct.steps
        own = config.resources.reconstruct
        self._every = own.checkpoint_every
        self._reconstructor = load_reconstructor(config.reconstruct, place, own.max_points)

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        del config
        return ("segment", "invert", "lift")

    @staticmethod
    def weights(config: ReconstructConfig) -> tuple[str, ...]:
        return (config.weights, config.clip_weights) if config.judges else (config.weights,)

    def __call__(self, items: Sequence[Item], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        objects, concepts, clouds = zip(*items, strict=True)
        evidence = Evidence(
            crops=crops_from_png([row.crop_png for row in objects]),
            concept=concepts_from_bytes([row.concept for row in concepts]),
            cloud=from_plies([row.cloud_ply for row in clouds]),
            camera=reference_cameras(clouds),
        )
        ids = [row.object_id for row in objects]
        first, again = (generators(self._seed, name, ids) for name in (self.name, f"{self.name}/again"))
        saved = self._saved(checkpoint, len(ids))
        outcomes = self._reconstructor(evidence, first, again, saved, checkpoint.save, self._every)
        return [
            outcome if isinstance(outcome, NumericsError) else [field_row(name, outcome, self._steps)]
            for name, outcome in zip(ids, outcomes, strict=True)
        ]

    def _saved(self, checkpoint: Checkpoint, n_objects: int) -> bytes | None:
        """What was saved, if a run can go on from it."""
        saved = checkpoint.load()
        try:
            if saved is not None:
                self._reconstructor.fit(saved, n_objects)
        except InputError as error:
            log.warning("%s: starting again, the checkpoint is no use: %s", self.name, error)
            return None
        return saved

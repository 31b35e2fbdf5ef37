"""reconstruct: a radiance Field distilled from the denoiser, held to the cloud and the crop. SDS, Poole et al. 2022."""

import logging
from collections.abc import Sequence

from anything3d.errors import InputError, NumericsError
from anything3d.models.diffusion import concepts_from_bytes
from anything3d.models.weights import Place
from anything3d.photo.image import crops_from_png
from anything3d.reconstruct import Evidence, ReconstructConfig, Reconstructed, load_reconstructor
from anything3d.seed import generators
from anything3d.space.cloud import from_plies
from pipeline.batch import Checkpoint, NoCheckpoint, Outcome
from pipeline.config import Config
from pipeline.rows import field_row
from pipeline.stages.lift import reference_cameras
from pipeline.unit import Unit
from schemas.records import CloudRecord, ConceptRecord, FieldRecord, ObjectRecord

SEEDLESS = ("denoiser_not_finite", "clip_not_finite")  # reasons that another seed does not change

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
        first = self._reconstruct(items, self.name, checkpoint)
        collapsed = [
            place
            for place, found in enumerate(first)
            if isinstance(found, NumericsError) and found.reason not in SEEDLESS
        ]
        tried_again = [items[place] for place in collapsed]
        second = self._reconstruct(tried_again, f"{self.name}/again", NoCheckpoint()) if collapsed else []
        again = dict(zip(collapsed, second, strict=True))
        return [
            self._outcome(item[0].object_id, found, again.get(place))
            for place, (item, found) in enumerate(zip(items, first, strict=True))
        ]

    def _reconstruct(
        self, items: Sequence[Item], name: str, checkpoint: Checkpoint
    ) -> list[Reconstructed | NumericsError]:
        """Fields under the seeds of `name`."""
        objects, concepts, clouds = zip(*items, strict=True)
        evidence = Evidence(
            crops=crops_from_png([row.crop_png for row in objects]),
            concept=concepts_from_bytes([row.concept for row in concepts]),
            cloud=from_plies([row.cloud_ply for row in clouds]),
            camera=reference_cameras(clouds),
        )
        randomness = generators(self._seed, name, [row.object_id for row in objects])
        saved = self._saved(checkpoint, len(objects))
        for state in self._reconstructor.run(evidence, randomness, saved, self._every):
            checkpoint.save(state.to_bytes())
        return self._reconstructor.finish(evidence, state)

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

    def _outcome(
        self, object_id: str, first: Reconstructed | NumericsError, second: Reconstructed | NumericsError | None
    ) -> Outcome:
        """The better attempt's record, or why there is none. `second` is None if there was one attempt."""
        found, attempts = (first, 1) if second is None else (second, 2)
        if isinstance(found, NumericsError):
            twice = "twice, with two seeds; " if second else ""
            return NumericsError(found.reason, f"{twice}{found.message}")
        return [field_row(object_id, found, self._steps, attempts)]

"""reconstruct: a radiance Field distilled from the denoiser, held to the cloud and the crop. SDS, Poole et al. 2022."""

from collections.abc import Sequence

from anything3d.cloud import from_plies
from anything3d.diffusion import concepts_from_bytes
from anything3d.errors import Anything3DError
from anything3d.image import crops_from_png
from anything3d.reconstruct import Evidence, ReconstructConfig, Reconstructed, load_reconstructor
from anything3d.seed import generators
from anything3d.weights import Place
from pipeline.cell import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.stages.lift import reference_cameras
from pipeline.unit import Unit
from schemas.records import CloudRecord, ConceptRecord, FieldRecord, ObjectRecord

Item = tuple[ObjectRecord, ConceptRecord, CloudRecord]


class ReconstructStage:
    name = "reconstruct"
    version = 1
    reads = ("segment", "invert", "lift")
    record = FieldRecord

    def __init__(self, config: Config, place: Place) -> None:
        self._seed, self._steps = config.seed, config.reconstruct.steps
        self._reconstructor = load_reconstructor(config.reconstruct, place)

    @staticmethod
    def weights(config: ReconstructConfig) -> tuple[str, ...]:
        return (config.weights,)

    def __call__(self, items: Sequence[Item], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        objects, concepts, clouds = zip(*items, strict=True)
        evidence = Evidence(
            crops=crops_from_png([row.crop_png for row in objects]),
            concept=concepts_from_bytes([row.concept for row in concepts]),
            cloud=from_plies([row.cloud_ply for row in clouds]),
            camera=reference_cameras(clouds),
        )
        randomness = generators(self._seed, self.name, [row.object_id for row in objects])
        for state in self._reconstructor.run(evidence, randomness, checkpoint.load()):
            checkpoint.save(state.to_bytes())
        return [
            found if isinstance(found, Anything3DError) else [self._record(row.object_id, found)]
            for row, found in zip(objects, self._reconstructor.finish(evidence, state), strict=True)
        ]

    def _record(self, object_id: str, found: Reconstructed) -> FieldRecord:
        losses = found.losses
        return FieldRecord(
            object_id,
            found.field.to_bytes(0),
            self._steps,
            losses["sds"],
            losses["reference_rgb"],
            losses["reference_mask"],
            found.opacity,
            found.fog,
        )

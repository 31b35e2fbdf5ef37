"""The stage reconstruct makes a radiance field, or a mesh, of every object, out of what its backend needs.

Source: SDS, Poole et al. 2022.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from anything3d.backend import RECONSTRUCTORS, Need, Pace, load_reconstructor
from anything3d.errors import Anything3DError, InputError, NumericsError
from anything3d.models.weights import Place
from anything3d.settings.reconstruct import ReconstructConfig
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.input.fetch import Photos
from pipeline.rows import field_row, position, reference_camera
from pipeline.stages.segment import read_photo
from pipeline.unit import Unit
from schemas.records import FieldRecord, ImageRecord

if TYPE_CHECKING:
    from anything3d.distil.evidence import Evidence, FinishedMesh, Reconstructed
    from anything3d.photo.annotated import AnnotatedPhoto

log = logging.getLogger(__name__)
BESIDE = "reconstruct.external.command"  # who speaks in the log
STAGE_OF: Mapping[Need, str] = {  # what a backend may need -> the stage whose rows have it
    "crop": "segment",
    "photo": "index",
    "caption": "caption",
    "concept": "invert",
    "cloud": "lift",
}


class ReconstructStage:
    name = "reconstruct"
    version = 6
    record = FieldRecord

    def __init__(self, config: Config, place: Place) -> None:
        self._seed, self._steps = config.seed, config.reconstruct.steps
        self._segment, self._reads = config.segment, self.reads(config)
        own = config.resources.reconstruct
        self._reconstructor = load_reconstructor(
            config.reconstruct,
            place,
            Pace(own.max_points, own.checkpoint_every, own.max_seconds_per_item, partial(log.info, "%s: %s", BESIDE)),
        )

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        needs = RECONSTRUCTORS[config.reconstruct.backend].needs
        return ("segment", *(STAGE_OF[need] for need in needs if need != "crop"))

    @staticmethod
    def weights(config: ReconstructConfig) -> tuple[str, ...]:
        return RECONSTRUCTORS[config.backend].weights(config)

    def __call__(self, items: Sequence[tuple[Any, ...]], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        from anything3d.seed import generators

        rows = dict(zip(self._reads, zip(*items, strict=True), strict=True))
        ids = [row.object_id for row in rows["segment"]]
        first, again = (generators(self._seed, name, ids) for name in (self.name, f"{self.name}/again"))
        saved = self._saved(checkpoint, len(ids))
        outcomes = self._reconstructor(self._evidence(rows, unit), first, again, saved, checkpoint.save, checkpoint.at)
        return [self._row(name, outcome) for name, outcome in zip(ids, outcomes, strict=True)]

    def _row(self, object_id: str, outcome: "Reconstructed | FinishedMesh | Anything3DError") -> Outcome:
        """A mesh is checked before it is written, since the file rounds its colours to whole numbers."""
        from anything3d.distil.evidence import FinishedMesh
        from anything3d.mesh import checked

        if isinstance(outcome, FinishedMesh) and isinstance(error := checked(outcome.mesh), NumericsError):
            return error
        return outcome if isinstance(outcome, Anything3DError) else [field_row(object_id, outcome, self._steps)]

    def _evidence(self, rows: Mapping[str, Sequence[Any]], unit: Unit) -> "Evidence":
        """What the backend needs, out of the rows by stage."""
        from anything3d.distil.evidence import Evidence
        from anything3d.models.concept import concepts_from_bytes
        from anything3d.photo.image import crops_from_png, unseen_from_png
        from anything3d.space.cloud import from_plies
        from anything3d.space.reference import stack

        clouds, concepts = rows.get("lift"), rows.get("invert")
        crops = crops_from_png([row.crop_png for row in rows["segment"]])
        return Evidence(
            crops=crops,
            concept=concepts_from_bytes([row.concept for row in concepts]) if concepts else None,
            cloud=from_plies([row.cloud_ply for row in clouds]) if clouds else None,
            camera=stack([reference_camera(row) for row in clouds]) if clouds else None,
            captions=[row.caption for row in rows["caption"]] if "caption" in rows else None,
            photos=[self._photo(row, unit).image for row in rows["index"]] if "index" in rows else None,
            positions=[position(row) for row in rows["segment"]],
            unseen=unseen_from_png([row.unseen_png for row in rows["segment"]], crops.shape[-1]),
        )

    def _photo(self, row: ImageRecord, unit: Unit) -> "AnnotatedPhoto":
        photo = read_photo(row, Photos(unit.inputs["shard"].path), self._segment)
        if isinstance(photo, InputError):  # segment has read the same bytes
            raise photo
        return photo

    def _saved(self, checkpoint: Checkpoint, n_objects: int) -> bytes | None:
        """What was saved, if a call can go on from it."""
        saved = checkpoint.load()
        try:
            if saved is not None:
                self._reconstructor.fit(saved, n_objects)
        except InputError as error:
            log.warning("%s: starting again, the checkpoint is no use: %s", self.name, error)
            return None
        return saved

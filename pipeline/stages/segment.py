"""The stage segment finds the objects of every photo and makes their crops.

Source: M = SAM(I, p), I' = Affine(M * I; b) of Anything-3D.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from anything3d.errors import Anything3DError, ConfigError, InputError, Skipped
from anything3d.models.weights import Place
from anything3d.settings.segment import SegmentConfig
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.input.fetch import Photos
from pipeline.location import explained
from pipeline.rows import object_row
from pipeline.stages.index import look
from pipeline.unit import Unit
from schemas.records import ImageRecord, ObjectRecord, RejectRecord

if TYPE_CHECKING:
    from anything3d.photo.annotated import AnnotatedPhoto
    from anything3d.segment import Segmented


class SegmentStage:
    name = "segment"
    version = 7
    record = ObjectRecord

    def __init__(self, config: Config, place: Place) -> None:
        from anything3d.segment import load_segmenter

        self._config = config.segment
        own = config.resources.segment
        self._segmenter = replace(
            load_segmenter(config.segment, place),
            images_per_batch=own.images_per_batch,
            prompts_per_batch=own.prompts_per_batch,
        )

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        del config
        return ("index",)  # which says what the shard's bytes are, wherever it lies

    @staticmethod
    def weights(config: SegmentConfig) -> tuple[str, ...]:
        return () if config.source == "annotations" else (config.weights,)

    def __call__(self, items: Sequence[tuple[ImageRecord]], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        photos, few = Photos(unit.inputs["shard"].path), self._segmenter.images_per_batch
        rows = [item[0] for item in items]
        return [
            outcome
            for start in range(0, len(rows), few)  # decoded photos are large: a few at a time
            for outcome in self._some(rows[start : start + few], photos)
        ]

    def _some(self, rows: Sequence[ImageRecord], photos: Photos) -> Iterator[Outcome]:
        from anything3d.photo.annotated import AnnotatedPhoto

        read = [read_photo(row, photos, self._config) for row in rows]
        sound = [photo for photo in read if isinstance(photo, AnnotatedPhoto)]
        segmented = iter(self._segmenter([photo.image for photo in sound], [photo.entries for photo in sound]))
        for row, photo in zip(rows, read, strict=True):
            if isinstance(photo, AnnotatedPhoto):
                yield self._outcome(row, photo.image.shape[:2], next(segmented))
            else:
                yield photo

    def _outcome(
        self, row: ImageRecord, size: Sequence[int], segmented: "Sequence[Segmented | Anything3DError]"
    ) -> list[ObjectRecord | RejectRecord] | Skipped:
        from anything3d.segment import name_of

        if not segmented:
            return Skipped("no_mask", f"{row.image_id} has no mask")
        ids = [f"{row.image_id}-{name_of(self._config.source, index)}" for index in range(len(segmented))]
        return [
            RejectRecord(item, self.name, result.kind, result.reason, result.message, 1)
            if isinstance(result, Anything3DError)
            else object_row(item, row.image_id, row.shard, size, result)
            for item, result in zip(ids, segmented, strict=True)
        ]


def check_annotated(shards: Sequence[str], config: Config) -> None:
    """Look at the first photo of each source, if the masks are to come from annotations.

    Raises: ConfigError("no_annotations") if there are photos, and none of them has annotations; StorageError.
    """
    without = ""
    for shard in shards if config.segment.source == "annotations" else ():
        with explained(shard):
            photos = [one for one in look(shard, config.index, most=1) if isinstance(one, ImageRecord)]
        if any(photo.json_sha256 for photo in photos):
            return
        without = without or (shard if photos else "")
    if without:
        raise ConfigError(
            "no_annotations",
            f"The photos of {without} have no annotations of SA-1B, and segment.source is annotations."
            " With --set segment.source=sam-grid, SAM finds the objects.",
        )


def read_photo(row: ImageRecord, photos: Photos, config: SegmentConfig) -> "AnnotatedPhoto | InputError":
    """The photo and what is known of its objects, or what is wrong with one of the two.

    Raises: MachineError("shard_changed") if the bytes are not those that were indexed.
    """
    from anything3d.photo.annotated import read_annotated, read_prompted

    jpg, json = photos.read(row)
    if row.json_sha256:
        return read_annotated(jpg, json, row.image_id, config.limits)
    return read_prompted(jpg, row.prompts, config.source, config.limits)

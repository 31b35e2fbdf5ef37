"""score: every object against its own photo, and against the ground truth that lies beside a mini-world shard."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from anything3d.errors import Anything3DError, SourceError
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.photo.image import crops_from_png, encode_png, encode_webp
from anything3d.quality import truth
from anything3d.score import Reconstruction, ScoreConfig, Scored, load_scorer
from anything3d.seed import generators
from anything3d.space.cloud import from_ply
from anything3d.space.field import Field
from anything3d.space.mesh import from_glb
from pipeline import source
from pipeline.batch import Checkpoint, Outcome
from pipeline.config import Config
from pipeline.stages.lift import reference_cameras
from pipeline.unit import Unit
from schemas.records import CloudRecord, FieldRecord, MeshRecord, ObjectRecord, ScoreRecord

Item = tuple[ObjectRecord, CloudRecord, FieldRecord, MeshRecord]
TURNTABLE_FPS = 6.0


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
        targets = [read_target(found, known.path) if found else None for found in shown]
        randomness = generators(self._seed, self.name, [row.object_id for row in rows])
        outcomes = self._scorer([reconstruction(item) for item in items], targets, randomness)
        return [
            scored if isinstance(scored, Anything3DError) else [_record(row.object_id, scored, found)]
            for row, scored, found in zip(rows, outcomes, shown, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Found:
    """The true object that a mask shows."""

    plan: truth.ViewPlan
    item: truth.TrueObject
    mask_iou: float


@lru_cache(maxsize=4)
def read_truth(path: str, digest: str) -> truth.Truth:
    """What a truth.json says; `digest` is what it was found to be when the run began.

    Raises: SourceError if it is broken, or has been written again since.
    """
    data = source.read(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise SourceError("truth_changed", f"{path} is not what it was when the run began; run the same command again")
    with _named(path):
        return truth.read(data)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Let errors say which truth.json is wrong."""
    try:
        yield
    except SourceError as error:
        raise SourceError(error.reason, f"{path}: {error.message}") from error


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


def find_truth(row: ObjectRecord, known: truth.Truth) -> Found | None:
    """The true object that the mask shows; None where the truth has none."""
    image = known.images.get(row.image_id)
    if image is None:
        return None
    pixels = mask.decode(row.mask_rle, row.image_height, row.image_width)
    index = truth.match(image, pixels)
    if index is None:
        return None
    return Found(known.plan, image.objects[index], float(truth.mask_ious(image, pixels)[index]))


def read_target(found: Found, truth_path: str) -> truth.Target:
    """The true object's surface and views, which lie beside truth.json.

    Raises: SourceError("bad_truth") if one is missing, broken, or not what truth.json names.
    """
    folder, item = truth_path.rsplit("/", 1)[0], found.item
    try:
        surface, views = source.read(f"{folder}/{item.surface}"), source.read(f"{folder}/{item.views}")
    except FileNotFoundError as error:
        raise SourceError("bad_truth", f"{truth_path} names {item.surface} and {item.views}; one is missing") from error
    with _named(truth_path):
        return truth.target(found.plan, item, surface, views)


def _record(object_id: str, scored: Scored, found: Found | None) -> ScoreRecord:
    true = scored.truth
    return ScoreRecord(
        object_id,
        scored.reference_psnr_db,
        scored.reference_mask_iou,
        scored.clip_similarity,
        found.item.caption if found else None,
        found.mask_iou if found else None,
        true.azimuth_error_deg if true else None,
        true.lift_chamfer if true else None,
        true.chamfer if true else None,
        true.fscore_5pct if true else None,
        true.novel_psnr_db if true else None,
        true.novel_mask_iou if true else None,
        scored.normalization,
        encode_png(scored.reference),
        encode_webp(scored.turntable, TURNTABLE_FPS),
    )

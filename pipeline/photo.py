"""One photo without shard, store or Ray: the same stages, called one after the other on one object of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from anything3d.errors import Anything3DError, ConfigError
from anything3d.models.device import check_device, cores, use_threads
from anything3d.models.weights import Place
from anything3d.photo import mask
from anything3d.photo.image import decode_upright, encode_png
from anything3d.photo.pixels import spotlight, thumbnail
from anything3d.segment import SegmentConfig, Segmenter, Source, load_segmenter
from pipeline.batch import NoCheckpoint
from pipeline.config import Config
from pipeline.release.objects import asset_files
from pipeline.release.pages import photo_page
from pipeline.rows import object_row
from pipeline.stages import load, needed, note
from pipeline.unit import Input, Unit
from schemas.corpus import OBJECT_RECORDS, ObjectRows
from schemas.records import ObjectRecord

MINI = Config()
MARKED_PX = 960  # longer side of the photo in the report


@dataclass(frozen=True, slots=True)
class LiftedImage:
    """One object of a photo, all the way."""

    rows: ObjectRows  # as in a corpus
    marked_png: bytes  # the photo with all else pale
    note: str  # what to know of the networks that made it; "" if nothing

    def files(self) -> dict[str, bytes]:
        """File name -> bytes: what a corpus has of an object, and the report."""
        report = photo_page(self.rows.segment.shard, self.marked_png, self.rows, self.note)
        named = {f"{self.rows.object_id}.{suffix}": data for suffix, data in asset_files(self.rows).items()}
        return {**named, f"{self.rows.object_id}.html": report.encode()}


def lift_image(
    photo: str | Path,
    *,
    point: tuple[float, float] | None = None,
    box: tuple[float, float, float, float] | None = None,
    config: Config = MINI,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> LiftedImage:
    """The object at a point (x, y) or in a box (x, y, x, y) of a photo (JPEG or PNG, pixels as viewers show it).

    Without either, SAM looks for objects on a grid, and the most prominent one is taken. Networks stay loaded for the
    next photo. `say` hears of every stage before it runs, and of the checkpoints of long ones.

    Raises: InputError if the photo, or what is pointed at, is no good; NumericsError if a stage gives the object up;
    WeightsError; ConfigError if both a point and a box are given, or there is no such device; OSError if there is no
    such file.
    """
    if point and box:
        raise ConfigError("prompt", "a point and a box are given; give one of them")
    check_device(device)
    path = Path(photo)
    say("segment")
    use_threads(cores())
    with path.open("rb") as file:  # not more than is looked at: the path may be of anything
        data = file.read(config.segment.limits.max_bytes + 1)
    image = decode_upright(data, config.segment.limits)
    source: Source = "sam-points" if point else "sam-boxes" if box else "sam-grid"
    segment = replace(config.segment, source=source)
    few = config.resources.segment.prompts_per_batch
    segmenter = replace(_segmenter(segment, config.place(device)), prompts_per_batch=few)
    prompt = point or box
    found = segmenter.at(image, prompt) if prompt else segmenter.most_prominent(image)
    size = image.shape[:2]
    row = object_row(f"{path.stem}-{found.mask.name}", path.stem, path.name, size, found)
    rows = _through(row, config, device, say)
    marked = spotlight(image, mask.decode(row.mask_rle, *size))
    used = replace(config, segment=segment)
    return LiftedImage(
        rows,
        encode_png(thumbnail(marked, MARKED_PX)),
        note(used),
    )


def _through(row: ObjectRecord, config: Config, device: str, say: Callable[[str], None]) -> ObjectRows:
    """All rows of the object, from segment to score."""
    rows: dict[str, Any] = {"segment": row}
    unit = Unit(row.image_id, (row.object_id,), {"truth": Input("", "")})
    checkpoints = -(
        -config.reconstruct.steps // config.resources.reconstruct.checkpoint_every
    )  # no other stage is so long
    for stage in needed(config):
        if stage.name not in OBJECT_RECORDS or stage.name in rows:
            continue
        say(stage.name)
        ready = load(stage.name, config.to_json(), device)
        use_threads(cores())  # nothing else runs, unlike beside the other actors of a cluster
        item = tuple(rows[name] for name in stage.reads(config) if name in rows)
        outcome = ready([item], unit, _Progress(stage.name, checkpoints, say))[0]
        if isinstance(outcome, Anything3DError):
            raise outcome
        (rows[stage.name],) = outcome
    return ObjectRows(**rows)


class _Progress(NoCheckpoint):
    """Keeps nothing, and says how often it was asked to: long stages save as they go."""

    def __init__(self, stage: str, total: int, say: Callable[[str], None]) -> None:
        self._stage, self._total, self._say, self._count = stage, total, say, 0

    def save(self, state: bytes) -> None:
        del state
        self._count += 1
        self._say(f"{self._stage}, checkpoint {self._count} of {self._total}")


@cache
def _segmenter(config: SegmentConfig, place: Place) -> Segmenter:
    return load_segmenter(config, place)

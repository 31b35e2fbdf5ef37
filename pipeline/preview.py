"""What `segment` keeps of the first photos of some sources, and what it leaves out and why. Nothing is stored.

A run with the same settings finds the same objects and rejects in these photos. Photos that `index` rejects are not
looked at. Without corpus and Ray.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from PIL import Image

from anything3d.errors import Anything3DError, Skipped
from anything3d.photo.annotated import AnnotatedPhoto
from anything3d.photo.crop import side_px
from anything3d.photo.marked import marked, square
from anything3d.photo.sheet import CELL_PX, outlined_picture, save_webp, sheet
from anything3d.reasons import REASONS
from anything3d.segment import Judged, ObjectMask, Segmenter, load_segmenter, name_of
from anything3d.settings.segment import SegmentConfig
from pipeline.config import Config, changed
from pipeline.input.fetch import Photos
from pipeline.location import explained
from pipeline.plan import batched
from pipeline.release.gallery.template import render
from pipeline.release.pages import inline
from pipeline.stages.index import look
from pipeline.stages.segment import read_photo
from schemas.records import ImageRecord

EXAMPLES = 100  # masks of each outcome that the page shows
ACROSS = 10  # of them side by side in a sheet
PHOTO_PX = 720  # longer side of a photo in the page
SETTING = re.compile(r"segment\.([a-z_.]*[a-z_])")  # in the text of a reason


@dataclass(slots=True)
class Example:
    """A mask, or a photo of which there is none."""

    item_id: str
    message: str  # "" if it is kept
    photo: int  # its place among the photos
    picture: Image.Image | None  # RGB, CELL_PX a side; None if there is no pixel to show


@dataclass(slots=True)
class Group:
    """Masks with the same outcome."""

    kind: str
    reason: str  # "" if they are kept
    count: int = 0
    examples: list[Example] = field(default_factory=list)  # the first EXAMPLES


@dataclass(slots=True)
class Shown:
    """A photo in the page."""

    image_id: str
    webp: bytes
    kept: int
    left_out: int


@dataclass(slots=True)
class Preview:
    """What has been found so far."""

    photos: list[Shown] = field(default_factory=list)
    kept: Group = field(default_factory=lambda: Group("", ""))
    rejects: dict[tuple[str, str], Group] = field(default_factory=dict)  # by kind and reason

    def groups(self) -> list[Group]:
        """First what is kept, then what is left out, the most frequent reason first."""
        return [self.kept, *sorted(self.rejects.values(), key=lambda group: (-group.count, group.kind, group.reason))]


def preview(config: Config, shards: Sequence[str], photos: int, device: str = "cpu") -> Preview:
    """The first `photos` photos of the sources, segmented.

    Raises: StorageError; WeightsError; what `Photos.read` raises.
    """
    made, own = Preview(), config.resources.segment
    segmenter = replace(
        load_segmenter(config.segment, config.place(device)),
        images_per_batch=own.images_per_batch,
        prompts_per_batch=own.prompts_per_batch,
    )
    for shard in shards:
        if (left := photos - len(made.photos)) <= 0:
            break
        with explained(shard):
            found = look(shard, config.index, most=left)
            rows = [one for one in found if isinstance(one, ImageRecord)][:left]
            for some in batched(rows, own.images_per_batch):
                _add(made, some, Photos(shard), segmenter)
    return made


def _add(made: Preview, rows: Sequence[ImageRecord], photos: Photos, segmenter: Segmenter) -> None:
    read = [read_photo(row, photos, segmenter.config) for row in rows]
    sound = [photo for photo in read if isinstance(photo, AnnotatedPhoto)]
    judged = iter(segmenter.judged([photo.image for photo in sound], [photo.entries for photo in sound]))
    for row, photo in zip(rows, read, strict=True):
        if isinstance(photo, AnnotatedPhoto):
            _add_photo(made, row.image_id, photo, next(judged), segmenter)
        else:
            _count(made, photo, row.image_id)
            made.photos.append(Shown(row.image_id, b"", 0, 0))


def _add_photo(made: Preview, image_id: str, photo: AnnotatedPhoto, judged: Sequence[Judged], own: Segmenter) -> None:
    """Count the masks of a photo, and cut those out that the page shows, as large as their crops are."""
    if not judged:
        _count(made, Skipped("no_mask", f"{image_id} has no mask"), image_id)
    kept, left_out = list[ObjectMask](), list[ObjectMask]()
    for index, one in enumerate(judged):
        error = None if isinstance(one.outcome, ObjectMask) else one.outcome
        example = _count(made, error, f"{image_id}-{name_of(own.config.source, index)}")
        shown = one.found if error else one.outcome
        if isinstance(shown, ObjectMask) and shown.area_px:
            (left_out if error else kept).append(shown)
            if example:
                side = side_px(shown.box, own.config.context, own.config.framing)
                example.picture = outlined_picture(square(photo.image, shown, side))
    webp = save_webp(marked(photo.image, kept, left_out, PHOTO_PX))
    made.photos.append(Shown(image_id, webp, len(kept), len(judged) - len(kept)))


def _count(made: Preview, error: Anything3DError | None, item_id: str) -> Example | None:
    """Count one outcome in the photo that comes next. Its example, if it is one of the first."""
    group = made.kept
    if error:
        group = made.rejects.setdefault((error.kind, error.reason), Group(error.kind, error.reason))
    group.count += 1
    if group.count > EXAMPLES:
        return None
    group.examples.append(Example(item_id, error.message if error else "", len(made.photos), None))
    return group.examples[-1]


def deciding(reason: str, config: SegmentConfig) -> dict[str, Any]:
    """The settings that the text of a reason names, with their values. Of what is kept: those that make the crop."""
    values = asdict(config)
    if not reason:
        return {f"segment.{name}": values[name] for name in ("framing", "context", "crop_size")}
    text = f"{REASONS[reason].meaning} {REASONS[reason].remedy}"
    return {f"segment.{name}": values[name] for name in dict.fromkeys(SETTING.findall(text)) if name in values}


def page(made: Preview, config: Config, shards: Sequence[str], note: str) -> str:
    """The preview as one HTML file that needs no other one. `note` is of the networks, or ""."""
    groups = made.groups()
    return render(
        "preview.html",
        title=f"segment: {', '.join(shards[:3])}{', ...' if len(shards) > 3 else ''}",
        note=note,
        photos=[(shown, inline("webp", shown.webp) if shown.webp else "") for shown in made.photos],
        groups=groups,
        sheets=[_sheet(group) for group in groups],
        places=[_places(group) for group in groups],
        reasons=REASONS,
        decides=[deciding(group.reason, config.segment) for group in groups],
        settings=dict(_flat("segment", asdict(config.segment))),
        changed=set(_flat("segment", changed(config.segment, SegmentConfig()))),
        masks=sum(shown.kept + shown.left_out for shown in made.photos),
        cell_px=CELL_PX,
    )


def _sheet(group: Group) -> str:
    pictures = [example.picture for example in group.examples if example.picture]
    return inline("webp", sheet(pictures, ACROSS)) if pictures else ""


def _places(group: Group) -> list[tuple[int, int] | None]:
    """Of each example: how many pixels to the left and to the top of its picture lie in the sheet."""
    numbers = iter(range(len(group.examples)))
    taken = [next(numbers) if example.picture else None for example in group.examples]
    return [None if at is None else (at % ACROSS * CELL_PX, at // ACROSS * CELL_PX) for at in taken]


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{name}", value)
        else:
            yield f"{prefix}.{name}", value

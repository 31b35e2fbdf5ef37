"""The report of one lifted photo: what a corpus has of an object, and a page. Without Arrow, storage and Ray."""

from dataclasses import replace

from anything3d.method import MethodConfig, Pace
from anything3d.object3d import Object3D
from anything3d.photo import mask
from anything3d.photo.image import encode_png
from anything3d.photo.picture import thumbnail
from anything3d.photo.pixels import spotlight
from anything3d.space.mesh import Mesh
from pipeline import rows
from pipeline.config import Config
from pipeline.release.objects import asset_files
from pipeline.release.pages import photo_page
from schemas.corpus import ObjectRows

MARKED_PX = 960  # longer side of the photo in the report


def method_config(config: Config) -> MethodConfig:
    """The sections that a photo needs; SAM finds the object, as a photo has no annotations."""
    return MethodConfig(
        seed=config.seed,
        segment=replace(config.segment, source="sam-grid"),
        caption=config.caption,
        invert=config.invert,
        lift=config.lift,
        reconstruct=config.reconstruct,
        mesh=config.mesh,
        score=config.score,
    )


def pace(config: Config) -> Pace:
    """The settings of `resources` that a photo needs."""
    own = config.resources
    return Pace(
        images_per_batch=own.segment.images_per_batch,
        prompts_per_batch=own.segment.prompts_per_batch,
        batch_clouds=own.lift.batch_clouds,
        max_points=own.reconstruct.max_points,
        checkpoint_every=own.reconstruct.checkpoint_every,
    )


def object_rows(made: Object3D, file: str, steps: int) -> ObjectRows:
    """The rows that a corpus would have of the object; `file` is the photo's name, `steps` those of reconstruct."""
    name, shape = made.id, made.reconstructed.shape
    return ObjectRows(
        segment=rows.object_row(name, made.photo.name, file, made.photo.pixels.shape[:2], made.segmented),
        caption=rows.caption_row(name, made.captioned),
        invert=rows.concept_row(name, made.inverted),
        lift=rows.cloud_row(name, made.lifted),
        reconstruct=rows.field_row(name, made.reconstructed, steps),
        mesh=rows.mesh_row(name, made.mesh, shape if isinstance(shape, Mesh) else None),
        score=rows.score_row(name, made.scored, None, None),
    )


def files(made: Object3D, file: str, steps: int, warning: str) -> dict[str, bytes]:
    """File name -> bytes: what a corpus has of an object, and the report. `warning` is of the networks, or ""."""
    one, pixels = object_rows(made, file, steps), made.photo.pixels
    marked = spotlight(pixels, mask.decode(one.segment.mask_rle, *pixels.shape[:2]))
    report = photo_page(file, thumbnail(encode_png(marked), MARKED_PX), one, warning)
    named = {f"{one.object_id}.{suffix}": data for suffix, data in asset_files(one).items()}
    return {**named, f"{one.object_id}.html": report.encode()}

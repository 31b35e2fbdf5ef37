"""The values of the method as rows of a corpus: one function for each verb whose rows are objects.

Stages write these rows, and so does the report of a single photo. This file imports neither Arrow nor storage.
A function imports what it needs of the method when it is called, so that `mesh` loads no torch.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from anything3d.errors import Bug
from schemas.records import (
    CaptionRecord,
    CloudRecord,
    ConceptRecord,
    FieldRecord,
    MeshRecord,
    ObjectRecord,
    ScoreRecord,
)

if TYPE_CHECKING:
    from anything3d.caption import Captioned
    from anything3d.distil.evidence import FinishedMesh, Position, Reconstructed
    from anything3d.invert import Inverted
    from anything3d.lift import Lifted
    from anything3d.quality.looks import Reconstruction
    from anything3d.score import Scored
    from anything3d.segment import Segmented
    from anything3d.space.mesh import Mesh
    from anything3d.space.paint import Sight
    from anything3d.space.viewpoint import ReferenceCamera

TURNTABLE_FPS = 6.0
CAMERA_COLUMNS = ("azimuth_deg", "elevation_deg", "distance", "focal_x", "focal_y", "centre_x", "centre_y")

RECONSTRUCTED = ("crop_png", "unseen_png", "cloud_ply", "field", "glb")  # columns of bytes that `reconstruction` needs


def object_row(object_id: str, image_id: str, shard: str, size: Sequence[int], segmented: "Segmented") -> ObjectRecord:
    """`size` is the height and the width of the photo, in pixels."""
    from anything3d.photo.image import encode_png

    unseen = segmented.crop.unseen
    return ObjectRecord(
        object_id,
        image_id,
        shard,
        segmented.mask.source,
        size[0],
        size[1],
        segmented.mask.counts,
        *segmented.mask.box,
        segmented.mask.area_px,
        segmented.mask.predicted_iou,
        segmented.mask.stability_score,
        segmented.crop.x,
        segmented.crop.y,
        segmented.crop.side,
        encode_png(segmented.crop.rgba),
        None if unseen is None else encode_png(unseen[..., None]),
        segmented.mask.doubtful_share,
    )


def position(row: ObjectRecord) -> "Position":
    """Where the object is in its photo."""
    from anything3d.distil.evidence import Position

    box = (row.box_x, row.box_y, row.box_width, row.box_height)
    return Position((row.image_height, row.image_width), row.mask_rle, box, (row.crop_x, row.crop_y, row.crop_side))


def caption_row(object_id: str, captioned: "Captioned") -> CaptionRecord:
    """What the captioner says."""
    return CaptionRecord(object_id, captioned.text, captioned.log_probability, captioned.keyword)


def concept_row(object_id: str, inverted: "Inverted") -> ConceptRecord:
    """The concept as a file, and its losses."""
    from anything3d.models.concept import concept_to_bytes

    return ConceptRecord(
        object_id, concept_to_bytes(inverted.concept), inverted.loss_before, inverted.loss_after, inverted.steps
    )


def cloud_row(object_id: str, lifted: "Lifted") -> CloudRecord:
    """The cloud as a file, and the reference camera in numbers."""
    from anything3d.space.cloud import to_ply

    return CloudRecord(
        object_id,
        to_ply(lifted.cloud),
        lifted.cloud.points.shape[1],
        lifted.candidate,
        lifted.match,
        **camera_columns(lifted.reference),
        stray_points=lifted.strays,
    )


def field_row(object_id: str, made: "Reconstructed | FinishedMesh", steps: int) -> FieldRecord:
    """The field as a file, and what the judge measured; or the mesh as a file. `steps` are those of a distillation."""
    from anything3d.distil.evidence import FinishedMesh
    from anything3d.space.mesh import to_glb

    camera = None if made.reference is None else json.dumps(camera_columns(made.reference))
    if isinstance(made, FinishedMesh):
        glb = to_glb(made.mesh)
        return FieldRecord(
            object_id, None, 0, 1, "mesh", None, None, None, None, None, None, own_mesh=glb, own_camera=camera
        )
    return FieldRecord(
        object_id,
        made.field.to_bytes(0),
        steps,
        made.attempts,
        made.kept,
        made.rise,
        made.losses.get("sds"),
        made.losses.get("reference_rgb"),
        made.losses.get("reference_mask"),
        made.opacity,
        made.fog,
        made.dropped,
        own_camera=camera,
    )


def camera_columns(reference: "ReferenceCamera") -> dict[str, float]:
    """A reference camera in the columns of CloudRecord."""
    values = (reference.azimuth_deg, reference.elevation_deg, reference.distance, *reference.intrinsics)
    return dict(zip(CAMERA_COLUMNS, values, strict=True))


def reference_camera(cloud: CloudRecord | None, made: FieldRecord | None = None) -> "ReferenceCamera":
    """From where the crop sees the object: as the backend of reconstruct says, or else as lift has found it.

    Raises: Bug if neither says it.
    """
    from anything3d.space.viewpoint import ReferenceCamera

    if made is not None and made.own_camera is not None:
        known = json.loads(made.own_camera)
    elif cloud is not None:
        known = {name: getattr(cloud, name) for name in CAMERA_COLUMNS}
    else:
        raise Bug("no_camera", "a backend of reconstruct that does not need the cloud has to give the reference camera")
    azimuth, elevation, distance, *intrinsics = (known[name] for name in CAMERA_COLUMNS)
    focal_x, focal_y, centre_x, centre_y = intrinsics
    return ReferenceCamera(azimuth, elevation, distance, (focal_x, focal_y, centre_x, centre_y))


def sight(row: ObjectRecord, made: FieldRecord, cloud: CloudRecord | None) -> "Sight":
    """What the photo shows of one object, as its rows have it."""
    from anything3d.photo.picture import as_array, load_png
    from anything3d.space.paint import Sight

    rgba = as_array(load_png(row.crop_png))
    unseen = None if row.unseen_png is None else as_array(load_png(row.unseen_png))[..., 0]
    return Sight(rgba, reference_camera(cloud, made), unseen)


def reconstruction(
    row: ObjectRecord, made: FieldRecord, mesh: MeshRecord, cloud: CloudRecord | None
) -> "Reconstruction":
    """One object as its rows have it."""
    from anything3d.photo.image import crops_from_png, unseen_from_png
    from anything3d.quality.looks import Reconstruction
    from anything3d.space.cloud import from_ply
    from anything3d.space.field import Field
    from anything3d.space.mesh import from_glb
    from anything3d.space.reference import stack

    crop = crops_from_png([row.crop_png])[0]
    return Reconstruction(
        crop=crop,
        unseen=unseen_from_png([row.unseen_png], crop.shape[-1])[0],
        reference=stack([reference_camera(cloud, made)]),
        cloud=None if cloud is None else from_ply(cloud.cloud_ply),
        field=None if made.field is None else Field.from_bytes(made.field),
        mesh=from_glb(mesh.glb),
    )


def mesh_row(object_id: str, surface: "Mesh", given: "Mesh | None") -> MeshRecord:
    """The mesh as a file, and what can be counted of it. `given` is what the backend has made, if that was a mesh."""
    from anything3d.space.mesh import facts, to_glb

    about = facts(surface)
    return MeshRecord(
        object_id,
        to_glb(surface),
        about.vertices,
        about.faces,
        about.components,
        about.watertight,
        given_faces=None if given is None else len(given.faces),
        repainted=None if given is None else surface is not given,
    )


def score_row(object_id: str, scored: "Scored", truth_caption: str | None, mask_iou: float | None) -> ScoreRecord:
    """The scores and the pictures; `truth_caption` and `mask_iou` are of the true object that the mask shows."""
    from anything3d.photo.image import encode_png, encode_webp
    from anything3d.quality.accuracy import TruthScores

    true = {column.name: getattr(scored.truth, column.name, None) for column in fields(TruthScores)}
    return ScoreRecord(
        object_id,
        reference_psnr_db=scored.field.psnr_db,
        reference_mask_iou=scored.field.mask_iou,
        clip_similarity=scored.field.clip_similarity,
        truth_caption=truth_caption,
        mask_iou=mask_iou,
        normalization=scored.normalization,
        render_png=encode_png(scored.reference),
        turntable_webp=encode_webp(scored.turntable, TURNTABLE_FPS),
        mesh_psnr_db=scored.mesh.psnr_db,
        mesh_mask_iou=scored.mesh.mask_iou,
        mesh_clip_similarity=scored.mesh.clip_similarity,
        mesh_dino_similarity=scored.dino.turntable,
        mesh_dino_reference=scored.dino.reference,
        crop_dino=scored.dino.crop,
        front_back_similarity=scored.mesh.front_back,
        self_intersections=scored.sound.self_intersections,
        thin_share=scored.sound.thin_share,
        hidden_share=scored.sound.hidden_share,
        quality=scored.quality,
        **true,
    )

"""The data model: the type of every row, in the order in which a datum travels.

One line describes one column: its name, its Python type, and its unit or meaning. `arrow.py` gives each Python type its
Arrow type, so this file imports no Arrow. Ids come from the source and are never rewritten: `sa_226692` is an image,
and `sa_226692-0031` is the object of its annotation with index 31. A stage writes one table and never edits
another one. Where a row exists, all its columns have values, except those that say "null if".
"""

from dataclasses import dataclass
from typing import Annotated, Literal

IF_ANY = "if any"  # a column that is left out of a part in which all rows have its default
OF_ITS_STAGE = "of its stage"  # a column that other records may have, too: its stage's name goes before it in objects/


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """index: one photo of a shard with its annotations, as byte ranges of the shard and digests of their bytes."""

    image_id: Annotated[str, "stem of the member names"]
    shard: Annotated[str, "file name of the shard without .tar"]
    jpg_offset: Annotated[int, "byte of the shard at which the photo begins"]
    jpg_size: Annotated[int, "bytes"]
    jpg_sha256: Annotated[str, "SHA-256 of the photo's bytes, hexadecimal"]
    json_offset: Annotated[int, "byte of the shard at which the annotations begin"]
    json_size: Annotated[int, "bytes"]
    json_sha256: Annotated[str, "SHA-256 of the annotations' bytes, hexadecimal"]
    # Of photos without annotations. Their JSON has no bytes and no digest. A part of an SA-1B shard has no such column.
    photo_in: Annotated[
        Literal["shard", "file", "row"],
        "shard: the bytes above; file: all of the file photo_name; row: row jpg_offset of the Parquet file",
        IF_ANY,
    ] = "shard"
    photo_name: Annotated[
        str, "as its source names it: member, file, location, row; empty if it is in SA-1B", IF_ANY
    ] = ""
    prompts: Annotated[str | None, "null if there are none; JSON: boxes and points of the side file", IF_ANY] = None


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """segment: one Object: its Mask in the photo and its Crop."""

    object_id: Annotated[str, "image_id, a dash, the annotation's place in the JSON (g....: SAM's grid)"]
    image_id: Annotated[str, "the photo"]
    shard: Annotated[str, "file name of the shard without .tar"]
    source: Annotated[str, "where the mask comes from: annotations, sam-points, sam-boxes, sam-grid"]
    image_height: Annotated[int, "pixels"]
    image_width: Annotated[int, "pixels"]
    mask_rle: Annotated[str, "COCO compressed run lengths of the mask in the photo, column-major"]
    box_x: Annotated[int, "pixels of the photo, left edge of the mask"]
    box_y: Annotated[int, "pixels of the photo, top edge of the mask"]
    box_width: Annotated[int, "pixels, last - first + 1"]
    box_height: Annotated[int, "pixels, last - first + 1"]
    area_px: Annotated[int, "pixels of the mask"]
    predicted_iou: Annotated[float, "SAM's own estimate, before a closer look; can exceed 1"]
    stability_score: Annotated[float, "IoU of the mask at two thresholds, before a closer look, 0 to 1"]
    crop_x: Annotated[float, "pixels of the photo, left edge of the crop; may lie outside"]
    crop_y: Annotated[float, "pixels of the photo, top edge of the crop; may lie outside"]
    crop_side: Annotated[float, "pixels of the photo, side of the square crop"]
    crop_png: Annotated[bytes, "PNG, RGBA, square; alpha is the mask"]
    unseen_png: Annotated[bytes | None, "null if nowhere; PNG, grey: where it may go on unseen", IF_ANY] = None
    doubtful_share: Annotated[float | None, "null if not by SAM; 0 to 1, of SAM's mask: deleted islands", IF_ANY] = None


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """caption: one sentence on an Object."""

    object_id: Annotated[str, "the object"]
    caption: Annotated[str, "BLIP's sentence on the crop over white"]
    log_probability: Annotated[float, "nats per token, mean"]
    keyword: Annotated[str, "the word of the caption that inversion moves; empty: all words"]


@dataclass(frozen=True, slots=True)
class ConceptRecord:
    """invert: e*, the prompt embedding under which the denoiser best explains the crop."""

    object_id: Annotated[str, "the object"]
    concept: Annotated[bytes, "safetensors: tokens, embeddings [L, C]; down/LAYER, up/LAYER if adapted"]
    loss_before: Annotated[float, "denoising loss of the caption's own embedding, held-out noise"]
    loss_after: Annotated[float, "the same of e*"]
    steps: Annotated[int, "optimiser steps", OF_ITS_STAGE]


@dataclass(frozen=True, slots=True)
class CloudRecord:
    """lift: Point-E's coloured Cloud and the Camera from which the crop sees it."""

    object_id: Annotated[str, "the object"]
    cloud_ply: Annotated[bytes, "binary PLY, canonical frame (y up, longest side 1), colours uchar"]
    points: Annotated[int, "number of points"]
    candidate: Annotated[int, "which of the sampled clouds was kept"]
    camera_match: Annotated[float, "agreement of splatted cloud and crop, 0 to 1"]
    azimuth_deg: Annotated[float, "degrees; reference camera, 0 = the object's front"]
    elevation_deg: Annotated[float, "degrees; reference camera above the horizon"]
    distance: Annotated[float, "reference camera from the centre, in longest sides"]
    focal_x: Annotated[float, "fraction of the crop's side"]
    focal_y: Annotated[float, "fraction of the crop's side"]
    centre_x: Annotated[float, "principal point, fraction of the crop's side"]
    centre_y: Annotated[float, "principal point, fraction of the crop's side, downwards"]
    stray_points: Annotated[int | None, "null if before version 2; points moved onto the cloud", IF_ANY] = None


@dataclass(frozen=True, slots=True)
class FieldRecord:
    """reconstruct: the radiance Field, or the mesh of a backend that makes its surface itself."""

    object_id: Annotated[str, "the object"]
    field: Annotated[
        bytes | None,
        "null if own_mesh is there; safetensors: voxel grids of density and colour, half side of their cube",
    ]
    steps: Annotated[int, "optimiser steps", OF_ITS_STAGE]
    attempts: Annotated[int, "1; 2 if the field collapsed at first and another seed was tried", OF_ITS_STAGE]
    kept: Annotated[
        Literal["field", "cloud", "mesh"],
        "cloud: the cloud's own surface, as distillation had made it worse; mesh: the backend's own",
    ]
    likeness_rise: Annotated[
        float | None,
        "null if not judged; CLIP similarity to the crop, of the field less the cloud's surface",
    ]
    sds_loss: Annotated[
        float | None, "null if not distilled; half the mean square of the distillation gradient, last 20 steps"
    ]
    reference_rgb_loss: Annotated[
        float | None, "null if not distilled; mean square colour error at the reference view, last 20 steps"
    ]
    reference_mask_loss: Annotated[
        float | None, "null if not distilled; mean square opacity error at the reference view, last 20 steps"
    ]
    opacity: Annotated[
        float | None,
        "null if not distilled; 0 to 1, mean inside the mask at the reference view, of what was distilled",
    ]
    fog: Annotated[float | None, "null if not distilled; 0 to 1, mean outside it, likewise"]
    dropped: Annotated[float, "0 to 1, share of the denoiser's predictions that were NaN or Inf and left out"] = 0.0
    own_mesh: Annotated[bytes | None, "null if field is there; binary glTF 2.0, as the backend has made it"] = None
    own_camera: Annotated[
        str | None,
        "null if the camera is that of lift; JSON: the backend's own reference camera, in the names and units of lift",
    ] = None


@dataclass(frozen=True, slots=True)
class MeshRecord:
    """mesh: the surface of the Field, or the mesh of the backend."""

    object_id: Annotated[str, "the object"]
    glb: Annotated[bytes, "binary glTF 2.0, y up, with a texture or vertex colours"]
    vertices: Annotated[int, "number of vertices"]
    faces: Annotated[int, "number of triangles"]
    components: Annotated[int, "number of separate pieces that were kept"]
    watertight: Annotated[bool, "whether every edge has two faces"]
    given_faces: Annotated[int | None, "null if of a field, or before version 8; of the backend's mesh", IF_ANY] = None
    repainted: Annotated[bool | None, "null if given_faces is; whether its colours were looked up anew", IF_ANY] = None


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """score: the quality of one object, against its own photo always, against ground truth where there is one."""

    object_id: Annotated[str, "the object"]
    reference_psnr_db: Annotated[float, "dB; the field at the reference camera against what the crop shows, on white"]
    reference_mask_iou: Annotated[float, "0 to 1; the field's silhouette there against the crop's mask, likewise"]
    clip_similarity: Annotated[float, "cosine; mean over the field's turntable views against the crop"]
    truth_caption: Annotated[str | None, "null if no truth; the true object's caption"]
    mask_iou: Annotated[float | None, "null if no truth; 0 to 1, mask against the true visible mask"]
    azimuth_error_deg: Annotated[float | None, "null if no truth; degrees, 0 to 180, up to the true shape's symmetry"]
    lift_chamfer: Annotated[float | None, "null if no truth; as chamfer, of the cloud"]
    chamfer: Annotated[float | None, "null if no truth; longest sides, unsquared, mean of both ways"]
    fscore_5pct: Annotated[float | None, "null if no truth; 0 to 1, threshold 0.05 longest sides"]
    novel_psnr_db: Annotated[float | None, "null if no truth; dB, the field in the true object's views, on white"]
    novel_mask_iou: Annotated[float | None, "null if no truth; 0 to 1, the same views"]
    normalization: Annotated[str, "how both shapes were brought into one frame before comparing"]
    render_png: Annotated[bytes, "PNG, RGBA, the mesh at the reference camera"]
    turntable_webp: Annotated[bytes, "animated WebP, the mesh all round, on white"]
    mesh_psnr_db: Annotated[float | None, "null if before version 5; as reference_psnr_db, of the mesh"] = None
    mesh_mask_iou: Annotated[float | None, "null if before version 5; as reference_mask_iou, of the mesh"] = None
    mesh_clip_similarity: Annotated[float | None, "null if before version 5; as clip_similarity, of the mesh"] = None
    fscore_1pct: Annotated[float | None, "null if no truth; 0 to 1, threshold 0.01 longest sides"] = None
    fscore_2pct: Annotated[float | None, "null if no truth; 0 to 1, threshold 0.02 longest sides"] = None
    mesh_novel_psnr_db: Annotated[float | None, "null if no truth; as novel_psnr_db, of the mesh"] = None
    mesh_novel_mask_iou: Annotated[float | None, "null if no truth; as novel_mask_iou, of the mesh"] = None
    normal_consistency: Annotated[
        float | None, "null if no true mesh; 0 to 1, |cosine| of nearest normals, both ways"
    ] = None
    volume_iou: Annotated[float | None, "null if no true mesh; 0 to 1, solids on a grid of 64^3"] = None
    sa3dao_chamfer: Annotated[
        float | None, "null if no true mesh; half longest sides, after ICP, mean of both ways"
    ] = None
    sa3dao_f1: Annotated[float | None, "null if no true mesh; 0 to 1, after ICP, threshold 0.01 half sides"] = None
    front_back_similarity: Annotated[float | None, "null if before version 6; cosine of views front and back"] = None
    self_intersections: Annotated[int | None, "null if not counted; triangles of the mesh that cross others"] = None
    thin_share: Annotated[float | None, "null if before version 6; 0 to 1, surface with a wall close behind it"] = None
    hidden_share: Annotated[float | None, "null if before version 6; 0 to 1, surface that no camera around sees"] = None
    quality: Annotated[Literal["A", "B", "C"] | None, "null if before version 7; A is best; needs no truth"] = None
    mesh_dino_similarity: Annotated[float | None, "null if before version 8; as mesh_clip_similarity, by DINOv2"] = None
    mesh_dino_reference: Annotated[float | None, "null if before version 8; cosine of the reference view alone"] = None
    crop_dino: Annotated[bytes | None, "null if before version 9; float16s, DINOv2's unit vector of the crop"] = None


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """evaluate: the numbers of one finished object that a summary of the corpus is made of."""

    object_id: Annotated[str, "the object"]
    caption: Annotated[str | None, "null if caption did not run; BLIP's sentence"]
    truth_caption: Annotated[str | None, "null if no truth; the true object's caption"]
    unseen_pair: Annotated[
        bool | None, "null if no truth; whether the mini networks never saw this shape in this colour"
    ]
    mask_iou: Annotated[float | None, "null if no truth; 0 to 1, mask against the true visible mask"]
    caption_shape_accuracy: Annotated[
        float | None,
        "null if no caption, or no shape or vocabulary in the truth; 1 if the caption names it and no other, else 0",
    ]
    caption_color_accuracy: Annotated[
        float | None,
        "null if no caption, or no colour or vocabulary in the truth; 1 if the caption names it and no other, else 0",
    ]
    inversion_gain: Annotated[
        float | None,
        "null if invert did not run or the loss before was 0; 1 - denoising loss after / before, 1 or less",
    ]
    inversion_improved: Annotated[
        float | None, "null if invert did not run; 1 if the denoising loss is lower after than before, else 0"
    ]
    lift_chamfer: Annotated[float | None, "null if no truth; as chamfer, of the cloud"]
    azimuth_error_deg: Annotated[float | None, "null if no truth; degrees, 0 to 180, up to the true shape's symmetry"]
    azimuth_within_20deg: Annotated[float | None, "null if no truth; 1 if that error is 20 or less, else 0"]
    reference_psnr_db: Annotated[float, "dB; the field at the reference camera against what the crop shows, on white"]
    mesh_psnr_db: Annotated[float | None, "null if not scored; as reference_psnr_db, of the mesh"]
    novel_psnr_db: Annotated[float | None, "null if no truth; dB, the field in the true object's views, on white"]
    novel_mask_iou: Annotated[float | None, "null if no truth; 0 to 1, the same views"]
    mesh_novel_psnr_db: Annotated[float | None, "null if no truth; as novel_psnr_db, of the mesh"]
    mesh_novel_mask_iou: Annotated[float | None, "null if no truth; as novel_mask_iou, of the mesh"]
    chamfer: Annotated[float | None, "null if no truth; longest sides, unsquared, mean of both ways"]
    fscore_5pct: Annotated[float | None, "null if no truth; 0 to 1, threshold 0.05 longest sides"]
    normal_consistency: Annotated[float | None, "null if no true mesh; 0 to 1, |cosine| of nearest normals, both ways"]
    volume_iou: Annotated[float | None, "null if no true mesh; 0 to 1, solids on a grid of 64^3"]
    sa3dao_chamfer: Annotated[float | None, "null if no true mesh; half longest sides, after ICP, mean of both ways"]
    sa3dao_f1: Annotated[float | None, "null if no true mesh; 0 to 1, after ICP, threshold 0.01 half sides"]
    seconds_per_object: Annotated[
        float, "seconds of all stages from segment on; of each, those of its cell by the cell's objects"
    ]


@dataclass(frozen=True, slots=True)
class OriginRecord:
    """Of no stage: what made an object, and under which terms it stands."""

    object_id: Annotated[str, "the object"]
    lift_backend: Annotated[str | None, "null if lift did not run; what lift.backend was"]
    reconstruct_backend: Annotated[str, "what reconstruct.backend was; if external, with the model's name and version"]
    weights: Annotated[str, "JSON: name -> SHA-256 of all files, of the weights of all stages"]
    licence: Annotated[str, "licences of the photos, of all weights and of the backends; they all apply"]
    code_version: Annotated[str, "version of anything3d that made the newest of the object's rows"]
    seed: Annotated[int | None, "null if not known; the run's setting `seed`"] = None
    photo_name: Annotated[str | None, "null if not known; as its source names it; empty if it is in SA-1B"] = None
    photo_offset: Annotated[int | None, "null if the shard is no tar; its byte at which the photo begins"] = None
    photo_size: Annotated[int | None, "null if not known; bytes of the photo"] = None
    photo_sha256: Annotated[str | None, "null if not known; SHA-256 of the photo's bytes, hexadecimal"] = None


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """The manifest of a shard: a cell that the shard consists of, or a file that was published of it."""

    what: Annotated[Literal["cell", "objects", "rejects", "assets", "gallery"], "a cell, or what is in the file"]
    path: Annotated[str, "the cell's folder, or the file; below the root of the corpus"]
    digest: Annotated[str, "SHA-256 of what the cell's commit says, or of the file's bytes"]
    rows: Annotated[int, "rows of the cell or of the table; objects of the tar"]
    bytes: Annotated[int | None, "null if a cell; of the file"] = None
    stage: Annotated[str | None, "null if a file; of the cell"] = None
    unit: Annotated[str | None, "null if a file; of the cell"] = None
    inputs: Annotated[int | None, "null if a file; items that came to the cell"] = None
    skipped: Annotated[int | None, "null if a file; rejects of this kind"] = None
    failed: Annotated[int | None, "null if a file; rejects of this kind"] = None
    crashed: Annotated[int | None, "null if a file; rejects of this kind"] = None
    seconds: Annotated[float | None, "null if a file; wall-clock seconds of the cell"] = None
    gpu_seconds: Annotated[float | None, "null if a file; the same times the actor's share of GPUs"] = None


@dataclass(frozen=True, slots=True)
class RejectRecord:
    """Any stage: an item that stopped, with its reason. inputs = items with rows + rejects, id by id."""

    item_id: Annotated[str, "image, object or shard member"]
    stage: Annotated[str, "the stage that gave up on it"]
    kind: Annotated[Literal["skipped", "failed", "crashed"], "skipped = by policy"]
    reason: Annotated[str, "code"]
    message: Annotated[str, "for people"]
    attempts: Annotated[int, "how often it was tried"]
    retried: Annotated[
        bool, "true: `anything3d retry` ran the item again later; this row is history and does not count", IF_ANY
    ] = False

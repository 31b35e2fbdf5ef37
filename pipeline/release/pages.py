"""The report of one photo: a page that needs no other file."""

from base64 import b64encode
from dataclasses import asdict

from anything3d.photo.picture import thumbnail
from pipeline.release.gallery.template import render
from schemas.corpus import OBJECT_COLUMNS, ObjectRows, metadata

SIDE_PX = 224  # of the pictures of the object
SHOWN = {
    "mesh_psnr_db": "mesh, reference PSNR, dB",
    "mesh_mask_iou": "mesh, reference mask IoU",
    "mesh_clip_similarity": "mesh, CLIP similarity",
    "reference_psnr_db": "field, reference PSNR, dB",
    "chamfer": "Chamfer",
    "fscore_5pct": "F-score at 5 %",
    "mesh_novel_psnr_db": "mesh, novel-view PSNR, dB",
}  # column -> what the page calls it


def photo_page(name: str, marked_png: bytes, rows: ObjectRows, note: str) -> str:
    """One photo's report: where the object is (`marked_png`), what was made of it, and all that is known of it.

    Captions and names come from outside and are escaped.
    """
    pictures = {
        "crop": ("png", thumbnail(rows.segment.crop_png, SIDE_PX)),
        "render": ("png", rows.score.render_png),
        "turntable": ("webp", rows.score.turntable_webp),
    }
    scores, columns = asdict(rows.score), metadata(rows)
    return render(
        "photo.html",
        title=name,
        side_px=SIDE_PX,
        note=note,
        photo=inline("png", marked_png),
        object_id=rows.object_id,
        caption=rows.caption.caption if rows.caption else "",
        is_cloud=rows.reconstruct.kept == "cloud",
        pictures={what: inline(kind, data) for what, (kind, data) in pictures.items()},
        scores={label: scores[column] for column, label in SHOWN.items() if scores[column] is not None},
        known={
            column.name: (columns[column.name], column.about)
            for column in OBJECT_COLUMNS
            if columns.get(column.name) not in (None, "") and column.name != "mask_rle"
        },
    )


def inline(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode()}"

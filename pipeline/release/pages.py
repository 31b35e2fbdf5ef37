"""Pages that show objects and need no other file: index.html of a corpus, and the report of a photo."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from string import Template
from typing import Any

from anything3d.photo.picture import thumbnail
from schemas.corpus import OBJECT_COLUMNS, ObjectRows, metadata

THUMBNAIL_PX, REPORT_PX = 160, 224  # side of an object's pictures
CORPUS_COLUMNS, REPORT_COLUMNS = "repeat(auto-fill, minmax(34rem, 1fr))", "minmax(14rem, 1fr) 46rem"  # CSS grid
SHOWN = {
    "mesh_psnr_db": "mesh, reference PSNR, dB",
    "mesh_mask_iou": "mesh, reference mask IoU",
    "mesh_clip_similarity": "mesh, CLIP similarity",
    "reference_psnr_db": "field, reference PSNR, dB",
    "chamfer": "Chamfer",
    "fscore_5pct": "F-score at 5 %",
    "mesh_novel_psnr_db": "mesh, novel-view PSNR, dB",
}  # column -> what the page calls it
PICTURES = ("crop_png", "render_png", "turntable_webp")  # columns of bytes that a page shows
CLOUD = " <em>The cloud's own surface: distillation had made it worse.</em>"


@dataclass(frozen=True, slots=True)
class Card:
    """One object on the page."""

    object_id: str
    crop_png: bytes
    render_png: bytes
    turntable_webp: bytes
    caption: str  # "" if there is none
    kept: str  # FieldRecord.kept
    scores: Mapping[str, Any]

    @classmethod
    def of(cls, rows: ObjectRows) -> "Card":
        """Of one object's rows."""
        return cls(
            object_id=rows.object_id,
            crop_png=rows.segment.crop_png,
            render_png=rows.score.render_png,
            turntable_webp=rows.score.turntable_webp,
            caption=rows.caption.caption if rows.caption else "",
            kept=rows.reconstruct.kept,
            scores=asdict(rows.score),
        )


def corpus_page(cards: Sequence[Card], snapshot: str, objects: int, rejects: int, note: str) -> str:
    """The gallery of the snapshot with this id; captions and ids come from outside and are escaped."""
    about = (
        f"{objects} objects, {rejects} rejects; the first {len(cards)} objects are shown. All "
        "columns: <code>objects/*.parquet</code>, files: the tars in <code>assets/</code>, what was left out and why: "
        "<code>rejects/*.parquet</code>."
    )
    sections = [_card(card, THUMBNAIL_PX) for card in cards]
    return _page(f"Corpus, snapshot {snapshot}", about, note, sections, THUMBNAIL_PX, CORPUS_COLUMNS)


def photo_page(name: str, marked_png: bytes, rows: ObjectRows, note: str) -> str:
    """One photo's report: where the object is (`marked_png`), what was made of it, and all that is known of it."""
    photo = f"<section>{_figure('photo', 'png', marked_png)}</section>"
    card, columns = Card.of(rows), metadata(rows)
    abouts = {column.name: column.about for column in OBJECT_COLUMNS}
    known = "".join(
        f"<tr><td>{escape(column)}</td><td>{_value(value)}</td><td>{escape(abouts[column])}</td></tr>"
        for column, value in columns.items()
        if value not in (None, "") and column != "mask_rle"
    )
    about = f"Files beside this page begin with <code>{escape(card.object_id)}</code>."
    table = f'<section class="wide"><table>{known}</table></section>'
    return _page(name, about, note, [photo, _card(card, REPORT_PX), table], REPORT_PX, REPORT_COLUMNS)


def _page(title: str, about: str, note: str, sections: Sequence[str], side_px: int, columns: str) -> str:
    return PAGE.substitute(
        title=escape(title),
        side=side_px,
        columns=columns,
        about=about,
        note=f'<p class="note">{escape(note)}</p>' if note else "",
        sections="\n".join(sections),
    )


def _card(card: Card, side_px: int) -> str:
    numbers = "".join(
        f"<tr><td>{escape(label)}</td><td>{card.scores[name]:.3g}</td></tr>"
        for name, label in SHOWN.items()
        if card.scores.get(name) is not None
    )
    crop = thumbnail(card.crop_png, side_px)
    images = (
        _figure("crop", "png", crop)
        + _figure("render", "png", card.render_png)
        + _figure("turntable", "webp", card.turntable_webp)
    )
    remark = CLOUD if card.kept == "cloud" else ""
    return (
        f"<section><h2>{escape(card.object_id)}</h2><p>{escape(card.caption)}{remark}</p>"
        f"<div>{images}</div><table>{numbers}</table></section>"
    )


def _figure(name: str, kind: str, data: bytes) -> str:
    return (
        f'<figure><img class="{name}" src="data:image/{kind};base64,{b64encode(data).decode()}" alt="{name}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fafafa }
main { display: grid; grid-template-columns: $columns; gap: 1rem }
.wide { grid-column: 1 / -1 }
section { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: 1rem }
h2 { font-size: 1rem; margin: 0 } section > p { margin: .2rem 0 .6rem; color: #555 }
div { display: flex; gap: .5rem }
figure { margin: 0; text-align: center; font-size: .8rem; color: #777 }
img { width: ${side}px; height: ${side}px; object-fit: contain;
      background: repeating-conic-gradient(#eee 0 25%, #fff 0 50%) 0 / 16px 16px }
img.photo { width: auto; height: auto; max-width: 100%; background: none }
table { font-size: .85rem; margin-top: .5rem }
td + td { text-align: right; padding-left: 1rem } td + td + td { text-align: left; color: #777 }
.note { background: #fff3cd; border: 1px solid #e6d28a; padding: .6rem 1rem; border-radius: 6px }
</style>
<h1>$title</h1>
<p>$about</p>
$note
<main>
$sections
</main></html>
""")

"""index.html: what the corpus looks like, in one file that needs nothing else."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Any

from anything3d.image import decode_png, encode_png, thumbnail

THUMBNAIL_PX = 160
SHOWN = {
    "reference_psnr_db": "reference PSNR, dB",
    "reference_mask_iou": "reference mask IoU",
    "clip_similarity": "CLIP similarity",
    "chamfer": "Chamfer",
    "fscore_5pct": "F-score at 5 %",
    "novel_psnr_db": "novel-view PSNR, dB",
}  # column -> what the page calls it


@dataclass(frozen=True, slots=True)
class Card:
    """One object on the page."""

    object_id: str
    crop_png: bytes
    render_png: bytes
    turntable_webp: bytes
    caption: str
    scores: Mapping[str, Any]


def page(cards: Sequence[Card], snapshot: Mapping[str, Any], note: str) -> str:
    """The page as HTML; captions and ids come from outside and are escaped."""
    return PAGE.substitute(
        snapshot=escape(snapshot["id"]),
        objects=snapshot["objects"],
        rejects=snapshot["rejects"],
        shown=len(cards),
        note=f'<p class="note">{escape(note)}</p>' if note else "",
        cards="\n".join(_card(card) for card in cards),
    )


def _card(card: Card) -> str:
    numbers = "".join(
        f"<tr><td>{escape(label)}</td><td>{card.scores[name]:.3g}</td></tr>"
        for name, label in SHOWN.items()
        if card.scores.get(name) is not None
    )
    crop = encode_png(thumbnail(decode_png(card.crop_png), THUMBNAIL_PX))
    images = "".join(
        f'<figure><img src="data:image/{kind};base64,{b64encode(data).decode()}" alt="{name}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, kind, data in (
            ("crop", "png", crop),
            ("render", "png", card.render_png),
            ("turntable", "webp", card.turntable_webp),
        )
    )
    return (
        f"<section><h2>{escape(card.object_id)}</h2><p>{escape(card.caption)}</p>"
        f"<div>{images}</div><table>{numbers}</table></section>"
    )


PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Corpus $snapshot</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fafafa }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(34rem, 1fr)); gap: 1rem }
section { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: 1rem }
h2 { font-size: 1rem; margin: 0 } section > p { margin: .2rem 0 .6rem; color: #555 }
div { display: flex; gap: .5rem } figure { margin: 0; text-align: center; font-size: .8rem; color: #777 }
img { width: 160px; height: 160px; object-fit: contain;
      background: repeating-conic-gradient(#eee 0 25%, #fff 0 50%) 0 / 16px 16px }
table { font-size: .85rem; margin-top: .5rem } td:last-child { text-align: right; padding-left: 1rem }
.note { background: #fff3cd; border: 1px solid #e6d28a; padding: .6rem 1rem; border-radius: 6px }
</style>
<h1>Corpus, snapshot $snapshot</h1>
<p>$objects objects, $rejects rejects; the first $shown objects are shown. All columns: <code>objects/*.parquet</code>,
files: <code>assets/*.tar</code>, what was left out and why: <code>rejects/*.parquet</code>.</p>
$note
<main>
$cards
</main></html>
""")

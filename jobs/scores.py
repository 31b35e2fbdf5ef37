"""The scores of a corpus as a table. They are read from its Parquet files, as any other tool would read them."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds

COLUMNS = {
    "mesh_psnr_db": "ref PSNR",
    "mesh_mask_iou": "ref IoU",
    "mesh_clip_similarity": "CLIP",
    "lift_chamfer": "cloud Ch.",
    "chamfer": "Chamfer",
    "fscore_5pct": "F at 5 %",
    "mesh_novel_psnr_db": "novel PSNR",
    "mesh_novel_mask_iou": "novel IoU",
    "azimuth_error_deg": "azimuth°",
}


def table(corpus: Path) -> Iterator[str]:
    """One line an object; a dash where there is no truth to compare with."""
    names = ["object_id", "truth_caption", "quality", *COLUMNS]
    rows = ds.dataset(corpus / "objects").to_table(columns=names).sort_by("object_id").to_pylist()
    yield f"{'object':<20}{'truth':<19}{'quality':<7}" + "".join(f"{title:>11}" for title in COLUMNS.values())
    for row in rows:
        cells = (f"{row[name]:>11.3f}" if row[name] is not None else f"{'-':>11}" for name in COLUMNS)
        yield f"{row['object_id']:<20}{row['truth_caption'] or '-':<19}{row['quality'] or '-':<7}" + "".join(cells)
    yield "ref/novel: the GLB against photo/truth, dB and 0..1; Chamfer in longest sides, unsquared; see docs/corpus.md"

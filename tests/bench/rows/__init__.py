"""All rows by their numbers."""

from tests.bench.rows import caption, field, index, invert, masks, pipeline, pointe, sam, sds, steps

ROWS = {
    row.number: row
    for row in (
        masks.ROW,
        index.ROW,
        index.HEADERS,
        index.SPARSE,
        sam.ROW,
        sam.ENCODED,
        caption.ROW,
        invert.ROW,
        pointe.ROW,
        field.ROW,
        *sds.COUNTED,
        *sds.TIMED,
        pipeline.ROW,
        *steps.ROWS,
        pipeline.GROWTH,
    )
}
ONLY_GPU = tuple(row.number for row in sds.TIMED)
LONG = ("9", "11", *ONLY_GPU)  # rows that run only where they are named, or on a GPU

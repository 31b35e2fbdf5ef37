"""`anything3d export` writes the objects of a corpus in the layout of other tools."""

from enum import StrEnum
from typing import Annotated

import typer

from jobs.command import CorpusArgument, errors_as_one_line
from pipeline.release.licences import Use


class Form(StrEnum):
    """The layouts."""

    DELTA = "delta"
    HF = "hf"
    LANCE = "lance"
    OBJ = "obj"
    OBJAVERSE = "objaverse"
    PLY = "ply"
    USDZ = "usdz"


def export(
    corpus: CorpusArgument,
    form: Annotated[Form, typer.Option("--format", help="The layout; docs/corpus.md says what each has.")],
    out: Annotated[
        str | None, typer.Option("--out", help="An empty folder or s3://bucket/prefix; delta has none.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="SQL condition on the columns of an object; needs duckdb.")
    ] = None,
    use: Annotated[
        Use | None, typer.Option("--use", help="Refuse, if a licence of an object does not allow this use.")
    ] = None,
    snapshot: Annotated[
        int | None, typer.Option("--snapshot", min=1, help="Number of the snapshot; the newest by default.")
    ] = None,
) -> None:
    """Write the objects in the layout of other tools.

    delta adds a log to the corpus, over the files that it has: every snapshot is a version of the table. The other
    formats copy the objects to --out.
    """
    with errors_as_one_line():
        from pipeline.input import source
        from pipeline.release.export import export as write

        place = None if out is None else source.absolute(out)
        count, where_it_is = write(source.absolute(corpus), form.value, place, where, snapshot, use)
        print(f"{count} {'new versions' if form is Form.DELTA else 'objects'}: {where_it_is}")

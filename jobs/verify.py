"""`anything3d verify` compares the files and cells of a corpus with their digests."""

from typing import Annotated

import typer

from jobs.command import CorpusArgument, errors_as_one_line


def verify(
    corpus: CorpusArgument,
    shards: Annotated[
        list[str] | None, typer.Option("--shard", help="Only this shard: its file name without .tar; repeatable.")
    ] = None,
) -> None:
    """Compare every file and cell with its digest.

    Names what is damaged. The next run of a shard with damage makes again what is damaged.
    """
    with errors_as_one_line():
        from anything3d.errors import SourceError
        from pipeline.input import source
        from pipeline.release.verify import verify as compare

        root = source.absolute(corpus)
        found, count = compare(root, shards or ())
        for path in (path for paths in found.values() for path in paths):
            print(f"damaged or gone: {path}")
        if found:
            raise SourceError(
                "damaged_corpus", f"{root}: give the command of the run of {', '.join(found)} again, which mends them."
            )
        print(f"{count} shards are as they were written")

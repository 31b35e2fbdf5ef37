"""`anything3d drop` takes shards out of a corpus. Their files stay until `gc`, so that older snapshots can be read."""

from typing import Annotated

import typer

from jobs.command import CorpusArgument, errors_as_one_line


def drop(
    corpus: CorpusArgument,
    shards: Annotated[list[str], typer.Argument(help="Names of shards: file names without .tar.")],
) -> None:
    """Take shards out of a corpus.

    Makes a snapshot without them. Nothing is deleted: older snapshots stay readable.
    """
    with errors_as_one_line():
        from pipeline.input import source
        from pipeline.release.corpus import drop as drop_shards

        snapshot = drop_shards(source.absolute(corpus), shards)
        print(f"{snapshot.objects} objects of {len(snapshot.partitions)} shards are left, snapshot {snapshot.number}")

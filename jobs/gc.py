"""`anything3d gc` lists the files of a corpus that no kept snapshot names, and deletes them on request."""

from typing import Annotated

import typer

from jobs.command import CorpusArgument, errors_as_one_line


def gc(
    corpus: CorpusArgument,
    older_than: Annotated[
        int, typer.Option("--older-than", min=0, help="Days; younger snapshots, files and cells stay.")
    ] = 7,
    keep_last: Annotated[
        int, typer.Option("--keep-last", min=1, help="The newest snapshots that stay, however old they are.")
    ] = 1,
    apply: Annotated[bool, typer.Option("--apply", help="Delete what is listed.")] = False,
) -> None:
    """List, or delete, what no kept snapshot needs.

    Files with names that anything3d does not write always stay. While a run is at work, no cell and no file
    of a shard is deleted, and --older-than 0 is refused.
    """
    with errors_as_one_line():
        from pipeline.input import source
        from pipeline.release.garbage import gc as collect

        report = collect(source.absolute(corpus), older_than, keep_last, apply=apply)
        print(f"kept snapshots: {', '.join(map(str, report.kept))}")
        print(f"{'folder':<12}{'files':>12}{'MB':>14}{'not ours':>12}")
        for folder, found in report.folders.items():
            print(f"{folder:<12}{found.files:>12}{found.bytes / 1e6:>14.1f}{found.foreign:>12}")
        files = sum(found.files for found in report.folders.values())
        size = sum(found.bytes for found in report.folders.values()) / 1e6
        if report.at_work:
            print("A run is at work. Its corpus keeps all cells and all files of shards until it has ended.")
        print(f"{files} files, {size:.1f} MB: {'deleted' if apply else 'nothing was deleted, give --apply for that'}")

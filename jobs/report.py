"""`anything3d report` writes one page on the newest snapshot of a corpus. It needs no Ray, and runs on any machine."""

from typing import Annotated

import typer

from jobs.command import CorpusArgument, errors_as_one_line

PAGE = "report.html"


def report(
    corpus: CorpusArgument,
    against: Annotated[
        int | None,
        typer.Option("--against", min=1, help="Number of the snapshot to compare with; the one before by default."),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help=f"The page: a file or a URL; {PAGE} by default.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as one JSON object; no page without --out.")
    ] = False,
) -> None:
    """Write a page on a corpus: yield, reasons, scores, price.

    The page is one file that needs no network. It shows the newest snapshot: how many items each stage had and lost,
    the reasons with examples, how the scores are spread, the best and the worst objects, the seconds and the price of
    each stage, and what has changed since an earlier snapshot. The corpus may lie on a disk or in a bucket.
    """
    with errors_as_one_line():
        import json

        from pipeline.input import source
        from pipeline.location import explained, split
        from pipeline.report.page import numbers, page, report_of
        from pipeline.store import Store

        place = source.absolute(out or PAGE)
        folder, name = split(place)
        made, pictures = report_of(source.absolute(corpus), against)
        if as_json:
            print(json.dumps(numbers(made)))
        if out is not None or not as_json:
            with explained(place):
                Store(folder).write(name, page(made, pictures))
            if not as_json:
                print(place)

"""`anything3d retry` runs items again that a stage has rejected, as after a machine was too slow or too small."""

from typing import Annotated

import typer

from jobs.command import (
    DONE,
    NOT_BALANCED,
    Address,
    CorpusArgument,
    LogFile,
    Verbose,
    errors_as_one_line,
    join,
    logs,
)


def retry(
    corpus: CorpusArgument,
    reason: Annotated[list[str] | None, typer.Option(help="Only rejects with this reason; repeatable.")] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Only rejects of this stage, from segment on; repeatable.")
    ] = None,
    shard: Annotated[list[str] | None, typer.Option(help="Only this shard of the corpus, by name; repeatable.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="resources.KEY=value or price.KEY=value over the settings of the shards; repeatable."
        ),
    ] = None,
    one_stage_at_a_time: Annotated[bool, typer.Option(help="For GPUs that cannot hold all stages at once.")] = False,
    address: Address = None,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Run failed and crashed items again.

    Takes them from the newest snapshot. Each goes again through the stage that rejected it, and through all later
    stages, with the settings of its shard. Nothing else runs. Skipped items stay, as a setting excludes them. A photo
    that segment rejected as a whole runs again; a single mask does not, and neither does what index rejected. The
    rejects table keeps the earlier rejects, with `retried`. A later run keeps what a retry has made.
    """
    with errors_as_one_line(), logs(verbose, log_file):
        from jobs.run_report import counted, lines
        from pipeline.input import source
        from pipeline.retry import Wanted
        from pipeline.retry import retry as run_again

        join(address)
        wanted = Wanted(reason or (), stage or (), shard or ())
        done = run_again(
            source.absolute(corpus),
            wanted,
            settings or (),
            one_stage_at_a_time=one_stage_at_a_time,
            say=lambda line: print(line, flush=True),
        )
        for report in done.reports:
            for line in lines(report, corpus):
                print(line, flush=True)
        items = sum(map(len, done.items.values()))
        print(
            f"{counted(items, 'rejected item')} ran again, {len(done.rejected)} of them were rejected again"
            if done.reports
            else "no item has failed or crashed that is to run again"
        )
    raise typer.Exit(NOT_BALANCED if any(report.lost for report in done.reports) else DONE)

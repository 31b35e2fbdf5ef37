"""A finished run in words: what each stage did, where the rejects are, which networks were untrained."""

from collections.abc import Iterator

from pipeline.progress import clock
from pipeline.run import Report

COLUMNS = f"{'stage':<12}{'cells':>7}{'run now':>9}{'done':>8}{'skipped':>9}{'failed':>8}{'seconds':>10}{'s/item':>9}"


def lines(report: Report, out: str) -> Iterator[str]:
    """The last lines of `anything3d run`."""
    yield COLUMNS
    for stage, commits in report.commits.items():
        counts = {key: sum(commit.counts[key] for commit in commits) for key in commits[0].counts}
        seconds = sum(commit.seconds for commit in commits)
        failed = counts["failed"] + counts["crashed"]
        per_item = seconds / counts["inputs"] if counts["inputs"] else 0.0
        yield (
            f"{stage:<12}{len(commits):>7}{report.made[stage]:>9}{counts['rows']:>8}{counts['skipped']:>9}{failed:>8}"
            f"{seconds:>10.1f}{per_item:>9.2f}"
        )
    assert report.snapshot is not None
    if report.note:
        yield report.note
    if report.unknown:
        yield f"{len(report.unknown)} of the ids are of no sound photo in the shards: {', '.join(report.unknown[:5])}"
    where = f"{out.rstrip('/')}/rejects/"
    yield f"{report.snapshot.objects} objects in {out}, {report.snapshot.rejects} rejects in {where}"
    if report.snapshot.lost:
        lost = report.snapshot.lost
        yield f"NOT BALANCED: {len(lost)} objects are neither done nor rejected: {', '.join(lost[:5])}"
    yield f"snapshot {report.snapshot.id}, {report.cells_run} cells run, {clock(report.seconds)} in all"

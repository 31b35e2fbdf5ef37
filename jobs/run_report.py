"""A finished run in words.

The lines say what each stage did, where the rejects are, whether the networks are worth something, and what is missing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from anything3d.errors import NoObject, TooFew
from pipeline.progress import clock
from pipeline.release.partition import Partition, Tally, tallies
from pipeline.run_report import RunReport

COLUMNS = f"{'stage':<12}{'cells':>7}{'run now':>9}{'done':>8}{'skipped':>9}{'failed':>8}{'seconds':>10}{'s/item':>9}"


def lines(report: RunReport, out: str) -> Iterator[str]:
    """The last lines of `anything3d run`."""
    yield COLUMNS
    for stage, tally in tallies(report.partitions).items():
        yield tally_line(stage, tally, report.made.get(stage, 0))
    if report.note:
        yield report.note
    if report.unknown:
        yield f"{len(report.unknown)} of the ids are of no sound photo in the shards: {', '.join(report.unknown[:5])}"
    mine, snapshot = report.partitions.values(), report.snapshot
    yield (
        f"{sum(one.objects for one in mine)} objects and {sum(one.rejects for one in mine)} rejects of"
        f" {counted(len(mine), 'shard')} of this run"
    )
    if snapshot is None:
        yield f"nothing was published, {report.cells_run} cells run, {clock(report.seconds)} in all"
        return
    yield (
        f"{snapshot.objects} objects in {out}, {snapshot.rejects} rejects in {out.rstrip('/')}/rejects/, of"
        f" {counted(len(snapshot.partitions), 'shard')} in all"
    )
    if report.lost:
        yield f"NOT BALANCED: {len(report.lost)} objects are neither done nor rejected: {', '.join(report.lost[:5])}"
    if report.cells_run:
        spending = report.spending
        yield f"the cells of this run took {spending.spent.told(spending.currency)}"
    yield (
        f"snapshot {snapshot.number} ({snapshot.digest}), {report.cells_run} cells run, {clock(report.seconds)} in all"
    )


def tally_line(stage: str, tally: Tally, made: object) -> str:
    """One line of a table with COLUMNS; `made` are the cells of this run."""
    failed = tally.failed + tally.crashed
    per_item = tally.seconds / tally.inputs if tally.inputs else 0.0
    return (
        f"{stage:<12}{tally.cells:>7}{made:>9}{tally.rows:>8}{tally.skipped:>9}{failed:>8}"
        f"{tally.seconds:>10.1f}{per_item:>9.2f}"
    )


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shortfall(partitions: Mapping[str, Partition], corpus: str, max_failed: float) -> TooFew | None:
    """What is to be said of a run that has no object, or of whose items more than a share failed.

    Counted are the items of each stage, shards apart from the photos in them, and photos apart from their masks: one of
    ten shards that is no tar is a tenth, however many photos the others have. Skipped ones have not failed.
    """
    reasons: Counter[str] = Counter()  # of all rejects
    too_many: TooFew | None = None
    for stage, tally in tallies(partitions).items():
        rejected = [entry for one in partitions.values() for entry in one.rejected if entry.stage == stage]
        for entry in rejected:
            reasons[f"{stage} {entry.reason}"] += entry.inputs + entry.parts
        broken = [entry for entry in rejected if entry.kind != "skipped"]
        failed = Counter[str]()
        for entry in broken:
            failed[entry.reason] += entry.inputs + entry.parts
        whole, parts = sum(entry.inputs for entry in broken), sum(entry.parts for entry in broken)
        for count, items in ((whole, tally.inputs), (parts, parts + tally.rows + tally.skipped)):
            if count > max_failed * items and not too_many:
                most = f"{count} of {items} items failed in {stage}, --max-failed allows {max_failed:.1%}"
                too_many = TooFew("too_many_failed", f"{most}: {_counted(failed)}; see {corpus}/rejects/")
    if not any(one.objects for one in partitions.values()):
        why = _counted(reasons) if reasons else "nothing was chosen"
        return NoObject("no_objects", f"the run made no object: {why}; see {corpus}/rejects/")
    return too_many


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(5))

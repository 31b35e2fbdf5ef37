"""A finished run in words.

The lines say what each stage did, where the rejects are, whether the networks are worth something, and what is missing.
"""

from collections import Counter
from collections.abc import Iterator

from anything3d.errors import TooFew
from pipeline.commit import Commit
from pipeline.ids import image_of
from pipeline.progress import clock
from pipeline.run import Report
from pipeline.store import Store

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


def shortfall(report: Report, corpus: str, max_failed: float) -> TooFew | None:
    """What is to be said of a run that has no object, or of whose items more than a share failed.

    Counted are the items of each stage, shards apart from the photos in them, and photos apart from their masks: one of
    ten shards that is no tar is a tenth, however many photos the others have. Skipped ones have not failed.
    """
    store, empty = Store(corpus), report.snapshot is not None and not report.snapshot.objects
    reasons: Counter[str] = Counter()  # of all rejects
    too_many: TooFew | None = None
    for stage, commits in report.commits.items():
        whole, parts, failed = 0, 0, Counter[str]()
        for commit in commits if empty else (c for c in commits if c.counts["failed"] + c.counts["crashed"]):
            for row in _rejects(store, commit):
                reasons[f"{stage} {row['reason']}"] += 1
                if row["kind"] != "skipped":
                    failed[row["reason"]] += 1
                    own = is_input(stage, commit, row["item_id"])
                    whole, parts = whole + own, parts + (not own)
        inputs = sum(commit.counts["inputs"] for commit in commits)
        judged = parts + sum(commit.counts["rows"] + commit.counts["skipped"] for commit in commits)
        for count, items in ((whole, inputs), (parts, judged)):
            if count > max_failed * items and not too_many:
                most = f"{count} of {items} items failed in {stage}, --max-failed allows {max_failed:.1%}"
                too_many = TooFew("too_many_failed", f"{most}: {_counted(failed)}; see {corpus}/rejects/")
    if empty:
        reasons.update(f"{row.stage} {row.reason}" for row in report.duplicates)
        why = _counted(reasons) if reasons else "nothing was chosen"
        return TooFew("no_objects", f"the run made no object: {why}; see {corpus}/rejects/")
    return too_many


def is_input(stage: str, commit: Commit, item_id: str) -> bool:
    """Whether a reject is of an item that came to the stage, not of what the stage found in one."""
    if stage == "index":
        return item_id == commit.unit
    return stage != "segment" or image_of(item_id) == item_id


def _rejects(store: Store, commit: Commit) -> list[dict[str, str]]:
    return store.read_part_table(commit.rejects).to_pylist() if commit.rejects.rows else []


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(5))

"""When a run that ended has come short: no object at all, or too many failed items. Cells in a real store."""

import pytest

from jobs.command import read_preset
from jobs.report import shortfall
from pipeline.commit import Commit
from pipeline.config import load
from pipeline.release.publish import Published
from pipeline.run import Report
from pipeline.stages import note
from pipeline.store import Store
from schemas.records import RejectRecord


@pytest.fixture
def commit(tmp_path):
    """Writes the rejects of a cell; its commit."""

    def write(stage, inputs, rows, *rejects):
        records = [RejectRecord(item, stage, kind, reason, "", 1) for item, kind, reason in rejects]
        kinds = [kind for _, kind, _ in rejects]
        part = Store(str(tmp_path)).write_part(f"cells/{stage}", "rejects", records, RejectRecord)
        return Commit(
            stage=stage,
            unit="shard",
            fingerprint="",
            digest="",
            rows=part,
            rejects=part,
            inputs={},
            counts={"inputs": inputs, "rows": rows}
            | {kind: kinds.count(kind) for kind in ("skipped", "failed", "crashed")},
            attempt="",
            attempts=1,
            seconds=0.0,
            gpu_seconds=0.0,
            versions={},
        )

    return write


def told(tmp_path, max_failed, *commits, objects=1):
    report = Report(snapshot=Published("id", objects, 0, ()))
    for made in commits:
        report.commits.setdefault(made.stage, []).append(made)
    return str(shortfall(report, str(tmp_path), max_failed) or "")


FOG, DEAD = ("failed", "field_fog"), ("crashed", "process_died")


def test_up_to_the_share_is_enough_and_one_more_is_not_and_says_why(commit, tmp_path):
    some = commit("reconstruct", 10, 8, ("sa_1-0000", *FOG), ("sa_1-0001", *DEAD))
    assert told(tmp_path, 0.2, some) == ""
    assert told(tmp_path, 0.19, some) == (
        "too_many_failed: 2 of 10 items failed in reconstruct, --max-failed allows 19.0%: "
        f"field_fog 1, process_died 1; see {tmp_path}/rejects/"
    )
    assert told(tmp_path, 0.0, commit("lift", 10, 10)) == ""


def test_cells_of_a_stage_are_added_and_stages_are_not(commit, tmp_path):
    bad, good = commit("lift", 2, 1, ("sa_1-0000", *FOG)), commit("lift", 18, 18)
    assert told(tmp_path, 0.05, bad, good) == ""
    assert told(tmp_path, 0.05, bad, commit("mesh", 18, 18)).startswith("too_many_failed: 1 of 2 items failed in lift")


def test_skipped_items_have_not_failed(commit, tmp_path):
    some = commit("segment", 1, 1, *((f"sa_1-{n:04d}", "skipped", "too_small") for n in range(9)))
    assert told(tmp_path, 0.0, some) == ""


def test_a_shard_is_not_lost_among_photos_nor_a_photo_among_masks(commit, tmp_path):
    lost = commit("index", 1, 0, ("shard", "failed", "not_a_tar"))
    assert "1 of 2 items failed in index" in told(tmp_path, 0.05, lost, commit("index", 1, 1000))
    torn = commit("segment", 2, 1000, ("sa_1", "failed", "image_truncated"))
    assert "1 of 2 items failed in segment" in told(tmp_path, 0.05, torn)
    assert told(tmp_path, 0.05, commit("index", 1, 99, ("sa_7", "failed", "member_damaged"))) == ""
    assert told(tmp_path, 0.05, commit("segment", 1, 99, ("sa_1-0099", "failed", "mask_broken"))) == ""
    assert "9 of 99 items failed in index" in told(
        tmp_path, 0.05, commit("index", 1, 90, *((f"sa_{n}", "failed", "member_damaged") for n in range(9)))
    )


def test_no_object_at_all_is_said_with_all_reasons(commit, tmp_path):
    small = commit("segment", 1, 0, ("sa_1-0000", "skipped", "too_small"), ("sa_1-0001", "skipped", "too_small"))
    assert told(tmp_path, 1.0, small, objects=0) == (
        f"no_objects: the run made no object: segment too_small 2; see {tmp_path}/rejects/"
    )
    assert "nothing was chosen" in told(tmp_path, 1.0, objects=0)


def test_results_of_mini_networks_mean_nothing_but_on_the_mini_world():
    official = read_preset("default")
    assert "On photographs the results mean nothing" in note(load([]))
    assert note(load([]), mini_world=True) == ""
    assert note(load([official])) == ""
    assert note(load([official], ["caption.weights=blip"])) == note(load([]))  # one of them is enough

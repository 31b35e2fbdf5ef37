"""When a run that ended has come short: no object at all, or too many failed items. Cells in a real store."""

from jobs.command import read_preset
from jobs.run_report import shortfall
from pipeline.commit import Part
from pipeline.config import load
from pipeline.release.partition import Partition, Photos, Tally
from pipeline.release.publish import summed_up
from pipeline.stages import note
from schemas.records import RejectRecord


def cell(stage, inputs, rows, *rejects):
    """A cell of a stage with its rejects: what a partition keeps of it."""
    records = [RejectRecord(item, stage, kind, reason, "", 1) for item, kind, reason in rejects]
    kinds = [kind for _, kind, _ in rejects]
    tally = Tally(1, inputs, rows, *map(kinds.count, ("skipped", "failed", "crashed")), 0.0, 0.0)
    return stage, tally, summed_up(records, "shard")


def told(corpus, max_failed, *cells, objects=1):
    """What is said of a run of these cells, each of a shard of its own."""
    partitions = {str(place): partition(objects, *one) for place, one in enumerate(cells)}
    return str(shortfall(partitions, str(corpus), max_failed) or "")


def partition(objects, stage, tally, rejected):
    file = Part("", 0, "", 0)
    about = {
        "shard": "shard",
        "location": "",
        "key": "",
        "digest": "",
        "note": "",
        "licences": (),
        "fingerprints": {},
        "elsewhere": {},
    }
    files = {"manifest": file, "tables": {}, "tars": ()}
    return Partition(
        **about,
        **files,
        wanted=0,
        objects=objects,
        rejects=0,
        stages={stage: tally},
        rejected=rejected,
        photos=Photos("", "", ""),
    )


FOG, DEAD = ("failed", "field_fog"), ("crashed", "process_died")


def test_up_to_the_share_is_enough_and_one_more_is_not_and_says_why(tmp_path):
    some = cell("reconstruct", 10, 8, ("sa_1-0000", *FOG), ("sa_1-0001", *DEAD))
    assert told(tmp_path, 0.2, some) == ""
    assert told(tmp_path, 0.19, some) == (
        "too_many_failed: 2 of 10 items failed in reconstruct, --max-failed allows 19.0%: "
        f"process_died 1, field_fog 1; see {tmp_path}/rejects/"
    )
    assert told(tmp_path, 0.0, cell("lift", 10, 10)) == ""


def test_cells_of_a_stage_are_added_and_stages_are_not(tmp_path):
    bad, good = cell("lift", 2, 1, ("sa_1-0000", *FOG)), cell("lift", 18, 18)
    assert told(tmp_path, 0.05, bad, good) == ""
    assert told(tmp_path, 0.05, bad, cell("mesh", 18, 18)).startswith("too_many_failed: 1 of 2 items failed in lift")


def test_skipped_items_have_not_failed(tmp_path):
    some = cell("segment", 1, 1, *((f"sa_1-{n:04d}", "skipped", "too_small") for n in range(9)))
    assert told(tmp_path, 0.0, some) == ""


def test_a_shard_is_not_lost_among_photos_nor_a_photo_among_masks(tmp_path):
    lost = cell("index", 1, 0, ("shard", "failed", "not_a_tar"))
    assert "1 of 2 items failed in index" in told(tmp_path, 0.05, lost, cell("index", 1, 1000))
    torn = cell("segment", 2, 1000, ("sa_1", "failed", "image_truncated"))
    assert "1 of 2 items failed in segment" in told(tmp_path, 0.05, torn)
    assert told(tmp_path, 0.05, cell("index", 1, 99, ("sa_7", "failed", "member_damaged"))) == ""
    assert told(tmp_path, 0.05, cell("segment", 1, 99, ("sa_1-0099", "failed", "mask_broken"))) == ""
    assert "9 of 99 items failed in index" in told(
        tmp_path, 0.05, cell("index", 1, 90, *((f"sa_{n}", "failed", "member_damaged") for n in range(9)))
    )


def test_no_object_at_all_is_said_with_all_reasons(tmp_path):
    small = cell("segment", 1, 0, ("sa_1-0000", "skipped", "too_small"), ("sa_1-0001", "skipped", "too_small"))
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

"""The progress of a run: counts, lines that do not come too often, and a remaining time that is arithmetic."""

import pytest

from pipeline.progress import PAUSE, PAUSE_S, SILENCE_S, Progress, Shown, clock, told_left
from pipeline.remaining import Count, Left, Presence, remaining


class Clock:
    """A clock that only goes when it is told to."""

    now = 1000.0


@pytest.fixture
def clock_s(monkeypatch):
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: Clock.now)
    Clock.now = 1000.0
    return Clock


def test_the_slowest_actors_decide():
    # caption: 8 items of 1 s for 2 actors; reconstruct: 9 items of 10 s for 3 actors
    counts = {"segment": Count(4, 0, 4), "caption": Count(10, 0, 2, 0, 2), "reconstruct": Count(10, 0, 1, 0, 3)}
    lanes, per_item = {("segment",): 1, ("caption",): 2, ("reconstruct",): 3}, {"caption": 1.0, "reconstruct": 10.0}
    assert remaining(counts, lanes, per_item) == Left(30.0, True)


def test_actors_that_stages_share_do_the_work_of_all_of_them():
    counts = {"segment": Count(4, 0, 4), "lift": Count(8, 0, 0, 0, 2), "mesh": Count(8, 0, 0, 0, 2)}
    assert remaining(counts, {("segment", "lift", "mesh"): 2}, {"lift": 3.0, "mesh": 1.0}) == Left(16.0, True)


def test_more_actors_than_units_do_not_help():
    counts = {"segment": Count(4, 0, 4), "lift": Count(8, 0, 0, 0, 1)}
    assert remaining(counts, {("segment", "lift"): 4}, {"lift": 3.0}) == Left(24.0, True)


def test_a_stage_of_which_nothing_is_known_makes_it_more_than_that():
    counts = {"segment": Count(4, 0, 4), "lift": Count(8, 0, 4, 0, 1), "mesh": Count(8, 0, 0, 0, 1)}
    assert remaining(counts, {("lift",): 1, ("mesh",): 1}, {"lift": 2.0}) == Left(8.0, False)


def test_photos_to_come_have_as_many_objects_as_those_that_were_segmented():
    # 2 of 6 photos have had 10 objects, so that 20 more come; 10 + 20 objects of 3 s, 4 photos of 1 s, 2 actors
    counts = {"segment": Count(6, 0, 2, 0, 2), "lift": Count(10, 0, 0, 0, 2)}
    assert remaining(counts, {("segment", "lift"): 2}, {"segment": 1.0, "lift": 3.0}) == Left((4 + 30 * 3) / 2, True)


def test_without_a_segmented_photo_nobody_knows_how_many_objects_come():
    counts = {"segment": Count(6, 0, 0, 0, 1)}
    assert remaining(counts, {("segment", "lift"): 1}, {"segment": 2.0, "lift": 3.0}) == Left(12.0, False)


def test_shards_to_come_are_taken_for_as_large_as_those_that_have_begun():
    # 8 of 10 are to do, and as many as 2 x 10 come
    counts = {"index": Count(1, 0, 1), "segment": Count(4, 0, 4), "lift": Count(10, 0, 2, 0, 1)}
    assert remaining(counts, {("lift",): 1}, {"lift": 3.0}, shards=3) == Left((8 + 20) * 3, True)


def test_shards_that_have_begun_but_are_not_indexed_have_work_too():
    # 2 of 4 shards have been indexed and have 10 objects, of which 8 are to do; 8 + 10 objects, and 2 shards of 5 s
    counts = {"index": Count(4, 0, 2, 0, 2), "segment": Count(4, 0, 4), "lift": Count(10, 0, 2, 0, 1)}
    lanes = {("index", "segment", "lift"): 1}
    per_item = {"index": 5.0, "segment": 0.0, "lift": 3.0}
    assert remaining(counts, lanes, per_item, shards=4) == Left(2 * 5 + (8 + 10) * 3, True)
    assert remaining(counts, lanes, per_item, shards=5) == Left(3 * 5 + (8 + 15) * 3, True)


def test_what_was_there_before_is_expected_to_be_there_in_the_shards_to_come():
    counts = {"index": Count(1, 1, 0), "segment": Count(4, 4, 0), "lift": Count(10, 10, 0)}
    assert remaining(counts, {("segment", "lift"): 1}, {"lift": 3.0}, shards=10) == Left(0.0, True)


def test_time_that_has_gone_into_a_cell_is_no_more_left():
    counts = {"segment": Count(4, 0, 4), "lift": Count(8, 0, 0, 0, 1)}
    work = {"stage": "lift", "items": 8, "since": 100.0}
    assert remaining(counts, {("lift",): 1}, {"lift": 3.0}, at_work=[work], now=110.0) == Left(14.0, True)
    assert remaining(counts, {("lift",): 1}, {"lift": 3.0}, at_work=[work], now=900.0) == Left(0.0, True)


def test_what_is_left_waits_for_the_driver_as_what_is_done_has():
    """2 actors have done 4 items of 3 s in 20 s, so 6 items take 30 s. Without waiting, they would take 9 s."""
    counts = {"segment": Count(4, 0, 4), "lift": Count(10, 0, 4, 0, 6)}
    lanes, per_item = {("lift",): 2}, {"lift": 3.0}
    assert remaining(counts, lanes, per_item, present={("lift",): 2 * 20.0}).seconds == pytest.approx(30.0)
    assert remaining(counts, lanes, per_item, present={("lift",): 2 * 6.0}) == Left(9.0, True)  # nobody has waited
    assert remaining(counts, lanes, per_item) == Left(9.0, True)


def test_actors_are_present_from_their_first_cell_on_as_far_as_there_are_units_for_them():
    presence, lanes = Presence(), {("lift",): 4}
    work = {"stage": "lift", "items": 1, "since": 100.0}
    counts = {"lift": Count(6, 0, 0, 0, 6)}
    assert presence.look(counts, lanes, [], 100.0) == {}  # networks are loaded
    assert presence.look(counts, lanes, [work], 130.0) == {("lift",): 0.0}
    assert presence.look(counts, lanes, [work], 132.0) == {("lift",): 8.0}
    assert presence.look(counts, {("lift",): 5}, [], 133.0) == {("lift",): 13.0}  # a node has come
    assert presence.look({"lift": Count(6, 0, 5, 0, 1)}, lanes, [], 140.0) == {("lift",): 20.0}  # for one unit
    assert presence.look({"lift": Count(6, 0, 6, 0, 0)}, lanes, [], 150.0) == {("lift",): 20.0}


def test_a_run_whose_driver_is_slow_tells_a_time_of_its_own_pace(clock_s):
    """An item every 2 s, though a cell takes 0.5 s: 30 items take 60 s, not 15 s."""
    shown = list[Shown]()
    progress, lanes = Progress(lambda line: None, show=shown.append), {("segment", "lift"): 1}
    progress.expect("segment", 1)
    for _ in range(40):
        progress.expect("lift", 1)
    progress.begin()
    progress.add("segment", 1, made=True)
    progress.show([{"stage": "lift", "items": 1, "since": 0.0}], None, lanes, {"segment": 0.0, "lift": 0.5})
    for _ in range(10):
        clock_s.now += 2.0
        progress.add("lift", 1, made=True)
        progress.show((), None, lanes, {"segment": 0.0, "lift": 0.5})
    assert shown[-1].left.seconds == pytest.approx(60.0)


def test_a_line_is_said_when_it_has_changed_and_the_last_one_is_not_new(clock_s):
    lines: list[str] = []
    progress = Progress(lines.append)
    progress.show()  # nothing has begun
    progress.expect("lift", 4)
    progress.add("lift", 1, made=False)
    progress.begin()
    progress.add("lift", 1, made=True)
    progress.show()  # too soon
    clock_s.now += PAUSE_S
    progress.show()
    progress.show()
    clock_s.now += PAUSE_S
    progress.show()  # nothing new
    progress.add("lift", 2, made=True)
    progress.show()
    assert [line.split("] ")[1].split(" · ")[0] for line in lines] == ["lift 1/4", "lift 2/4", "lift 4/4"]


def test_the_lines_of_a_long_run_come_more_rarely(clock_s):
    lines: list[str] = []
    progress = Progress(lines.append)
    progress.expect("lift", 100_000)
    progress.begin()
    for _ in range(8 * 3600):
        clock_s.now += 1.0
        progress.add("lift", 1, made=True)
        progress.show()
    assert 1 / PAUSE < len(lines) < 10 / PAUSE


def test_a_run_of_several_shards_says_how_many_are_finished():
    lines: list[str] = []
    progress = Progress(lines.append)
    progress.shards(1, 2, 3)
    progress.expect("index", 1)
    progress.begin()
    assert lines == ["[0:00] shards 1/3 · index 0/1 · loading networks"]


def test_a_stage_whose_first_cell_takes_long_is_seen_to_live(clock_s):
    lines: list[str] = []
    progress = Progress(lines.append)
    progress.expect("reconstruct", 8)
    progress.begin()
    clock_s.now += SILENCE_S + 1
    progress.show()
    assert lines[-1] == "[0:21] reconstruct 0/8"
    clock_s.now += 39
    progress.add("reconstruct", 4, made=True)
    progress.show((), None, {("segment", "reconstruct"): 1}, {"segment": 0.0, "reconstruct": 15.0})
    assert lines[-1] == "[1:00] reconstruct 4/8 · more than 1:00 left"  # no photo is known


def test_whoever_is_shown_the_progress_hears_no_lines_of_it(clock_s):
    lines, shown = list[str](), list[Shown]()
    progress = Progress(lines.append, show=shown.append)
    progress.expect("lift", 4)
    progress.begin()
    clock_s.now += 60.0
    progress.add("lift", 3, 2, made=True)
    progress.show()
    assert len(lines) == 1
    assert (shown[-1].elapsed, shown[-1].stages["lift"], shown[-1].per_minute) == (
        60.0,
        Count(4, 0, 3, 2),
        {"lift": 3.0},
    )


def test_what_is_left_is_told_in_words():
    assert [told_left(left) for left in (Left(90, True), Left(90, False), Left(0.4, True))] == [
        "about 1:30 left",
        "more than 1:30 left",
        "",
    ]


def test_times_read_as_clocks():
    assert [clock(seconds) for seconds in (0.4, 61, 3600 + 62)] == ["0:00", "1:01", "1:01:02"]

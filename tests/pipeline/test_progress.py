"""The progress line: counts, and a remaining time that is arithmetic."""

from pipeline.progress import SILENCE_S, Count, Progress, clock, remaining_seconds


def test_the_rest_takes_as_long_as_the_same_work_took_so_far():
    # lift: 2 of 10 done at 3 s each, 24 s left; mesh: 1 of 10 at 4 s, 36 s left; 10 s of work took 5 s of time
    counts = [Count(10, 0, 2, 6.0), Count(10, 0, 1, 4.0)]
    assert remaining_seconds(counts, elapsed=5.0) == 5.0 * 60 / 10


def test_items_that_were_there_before_are_neither_work_nor_left():
    assert remaining_seconds([Count(10, 8, 1, 2.0)], elapsed=2.0) == 2.0
    assert remaining_seconds([Count(10, 0, 0, 0.0)], elapsed=9.0) == 0.0


def test_shards_to_come_are_taken_for_as_large_as_those_that_have_begun():
    # 8 of 10 are to do, and as many as 2 x 10 come; an item takes 3 s, and 6 s of work took 2 s of time
    assert remaining_seconds([Count(10, 0, 2, 6.0)], elapsed=2.0, more=2.0) == 2.0 * (8 + 20) * 3 / 6


def test_a_line_is_said_when_it_changes():
    lines: list[str] = []
    progress = Progress(lines.append)
    progress.show()  # nothing has begun
    progress.expect("lift", 4)
    progress.add("lift", 1, None)
    progress.begin()
    progress.show()
    progress.add("lift", 1, 2.0)
    progress.show()
    progress.show()
    progress.add("lift", 2, 4.0)
    progress.show()
    assert [line.split("] ")[1].split(" · ")[0] for line in lines] == ["lift 1/4", "lift 2/4", "lift 4/4"]


def test_a_run_of_several_shards_says_how_many_are_finished():
    lines: list[str] = []
    progress = Progress(lines.append)
    progress.shards(1, 2, 3)
    progress.expect("index", 1)
    progress.begin()
    assert lines == ["[0:00] shards 1/3 · index 0/1 · loading networks"]


def test_a_stage_whose_first_cell_takes_long_is_seen_to_live(monkeypatch):
    lines: list[str] = []
    clock_s = 1000.0
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: clock_s)
    progress = Progress(lines.append)
    progress.expect("reconstruct", 8)
    clock_s += 36_000  # cells were looked up
    progress.begin()
    clock_s += SILENCE_S + 1
    progress.show()
    assert lines[-1] == "[10:00:21] reconstruct 0/8"
    clock_s += 39
    progress.add("reconstruct", 4, 60.0)
    progress.show()
    assert lines[-1] == "[10:01:00] reconstruct 4/8 · about 1:00 left"  # by the time since the actors were started


def test_times_read_as_clocks():
    assert [clock(seconds) for seconds in (0.4, 61, 3600 + 62)] == ["0:00", "1:01", "1:01:02"]

"""A night's file, its gates, and what it says of two snapshots."""

import os
import shutil
import time
from dataclasses import replace

import pytest

from anything3d.errors import ConfigError
from pipeline.compare import SCORES, compare, means_of
from pipeline.config import Config, load
from pipeline.ledger import LEASE_S, Attempt
from pipeline.nightly import FOLDER, Gates, at_work, read_night, refusals, spend, yield_of
from pipeline.release.snapshot import newest
from pipeline.store import Store
from tests.pipeline.conftest import publish, quiet
from tests.pipeline.release.test_publish import other, part

NIGHT = 'out = "/corpus"\nshards = ["/shards/*.tar"]\n'


def test_a_nights_file_is_read_with_its_defaults():
    night = read_night(NIGHT + "[gates]\nmin_yield = {mesh = 0.5}\nmin_mean = {reference_psnr_db = 20}\n", "f")
    assert (night.out, night.shards, night.preset, night.gates.min_objects) == ("/corpus", ["/shards/*.tar"], "mini", 1)
    assert (night.gates.min_yield, night.gates.min_mean) == ({"mesh": 0.5}, {"reference_psnr_db": 20})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("= 3", "config_syntax: f is not TOML"),
        ("shard = 3", "night: f: shard: Extra inputs"),
        ("max_objects = 0", "night: f: max_objects"),
        ("preset = 7", "night: f: preset"),
        ("[gates]\nmin_yield = {mesh = 90}", "gates.min_yield.mesh"),
        ("[gates]\nmax_rejects = {field_fog = -1}", "gates.max_rejects.field_fog"),
        ("[gates]\nmin_yields = {}", "night: f: gates.min_yields"),
        ("[gates]\nmin_yield = {meshes = 0.5}", "no stage meshes; known are index, segment"),
        ("[gates]\nmin_mean = {psnr = 1}", "no score psnr; known are reference_psnr_db"),
    ],
)
def test_a_mistake_in_a_nights_file_is_one_line(more, says):
    with pytest.raises(ConfigError) as refused:
        read_night(NIGHT + more, "f")
    assert says in str(refused.value)


def test_every_gate_lets_through_what_reaches_it_and_says_what_does_not(world):
    partitions, store = world.snapshot.partitions, world.store
    means = means_of(store, partitions)
    psnr = means["reference_psnr_db"]
    assert yield_of("reconstruct", partitions) == 0.8  # one of five was fog
    reached = Gates(
        min_objects=4,
        min_yield={"reconstruct": 0.8},
        min_mean={"reference_psnr_db": psnr},
        max_rejects={"field_fog": 1},
    )
    assert list(refusals(reached, partitions, means)) == []
    missed = Gates(
        min_objects=5,
        min_yield={"reconstruct": 0.81, "mesh": 1.0},
        min_mean={"reference_psnr_db": psnr + 1},
        max_rejects={"field_fog": 0},
    )
    assert list(refusals(missed, partitions, means)) == [
        "The night has 4 objects, and at least 5 are wanted.",
        "reconstruct let 80.0% of its items through, and at least 81.0% are wanted.",
        f"reference_psnr_db has a mean of {psnr:.4g}, and at least {psnr + 1:g} is wanted.",
        "1 items were rejected as field_fog, and at most 0 may be.",
    ]
    assert "No item came to mesh" in next(refusals(Gates(min_objects=0, min_yield={"mesh": 0.5}), {}, {}))
    assert "has no value" in next(refusals(Gates(min_mean={"chamfer": 1.0}), partitions, {}))


def test_means_are_those_of_the_table(world):
    rows = [row for path in world.store.paths("objects") for row in world.store.read_table(path).to_pylist()]
    for name, mean in means_of(world.store, world.snapshot.partitions).items():
        values = [row[name] for row in rows if row[name] is not None]
        assert mean == pytest.approx(sum(values) / len(values))
    assert {"reference_psnr_db", "clip_similarity", "chamfer"} <= set(SCORES)


def test_objects_that_are_added_gone_changed_and_the_same_are_counted(world, tmp_path):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    first = newest(store)
    again = compare(store, first, first)
    assert (again.added, again.gone, again.changed, again.same) == (0, 0, 0, 4)
    from_nothing = compare(store, None, first)
    assert (from_nothing.before, from_nothing.shards_added, from_nothing.added) == (None, 1, 4)
    second = publish(store, part(world), other(world))
    found = compare(store, first, second)
    assert (found.before, found.shards_added, found.shards_gone, found.shards_changed) == (1, 1, 0, 1)
    assert (found.added, found.gone, found.changed, found.same) == (2, 2, 0, 2)
    back = compare(store, second, first)
    assert (back.added, back.gone, back.same) == (2, 2, 2)
    change = found.scores["reference_psnr_db"]
    assert (change.before, change.up, change.down) == (means_of(store, first.partitions)["reference_psnr_db"], 0, 0)


def test_a_night_whose_limit_leaves_nothing_to_judge_says_the_limit(tmp_path):
    night, config = read_night(NIGHT + "max_cost = 0", "f"), load([], ["price.cpu_hour=1"])
    (tmp_path / "sa_0.tar").write_bytes(bytes(2000))
    told = spend(night, config, [str(tmp_path / "sa_0.tar")], str(tmp_path / "corpus"), quiet)
    assert (told.report.limit.reason, told.refused, told.report.snapshot) == ("limit_reached", (), None)


def test_a_second_night_on_a_corpus_says_who_is_at_work_and_does_nothing(world, tmp_path):
    store = Store(str(shutil.copytree(world.corpus, tmp_path / "corpus")))
    night = read_night(NIGHT, "f")
    with Attempt(store, FOLDER) as attempt:
        assert at_work(store, attempt) == ""
        told = spend(night, Config(), [str(world.shard)], store.root, quiet)
    assert isinstance(told, str)
    assert told.startswith("process ")
    assert newest(store) == replace(world.snapshot)
    assert store.paths(FOLDER) == [f"{FOLDER}/000001.json"]


def test_of_two_nights_that_begin_at_once_one_goes_on(tmp_path):
    store = Store(str(tmp_path))
    with Attempt(store, FOLDER) as first, Attempt(store, FOLDER) as second:
        first.look()
        assert len(first.living) == len(second.living) == 1  # each knows of the other
        assert at_work(store, second) == ""
        assert at_work(store, first) == f"{FOLDER}/attempts/{second.name}.json"
    with Attempt(store, FOLDER) as third:  # after the end of the one that went on
        assert at_work(store, third) == ""
    assert store.paths(FOLDER) == [f"{FOLDER}/000002.json"]


def test_of_nights_that_see_that_it_is_their_turn_at_once_one_takes_it(tmp_path):
    class Slow(Store):
        """The store of a night that another one overtakes."""

        def create(self, path, data):
            if path == f"{FOLDER}/000001.json" and not self.find(path):
                Store(self.root).create(path, b'{"attempt": "other"}')
            return super().create(path, data)

    store = Slow(str(tmp_path))
    with Attempt(store, FOLDER) as attempt:
        assert at_work(store, attempt) == f"{FOLDER}/attempts/other.json"


def test_a_night_that_was_killed_on_another_machine_is_waited_for_and_then_followed(tmp_path):
    path, looks = f"{FOLDER}/attempts/{'0' * 32}.json", []

    class Late(Store):
        """The store of a corpus on which another machine has worked until LEASE_S before the fourth look."""

        def entries(self, prefix):
            if prefix == f"{FOLDER}/attempts":
                looks.append(prefix)
            if len(looks) == 4:
                os.utime(tmp_path / path, (time.time() - LEASE_S - 1,) * 2)
            return super().entries(prefix)

    store = Late(str(tmp_path))
    store.write(path, b'{"machine": "another", "pid": 7, "process_started": "1"}')
    store.write(f"{FOLDER}/000004.json", b'{"attempt": "' + b"0" * 32 + b'"}')
    with Attempt(store, FOLDER) as attempt:
        assert attempt.living == [path]
        assert at_work(store, attempt) == ""
    assert store.paths(FOLDER) == [f"{FOLDER}/000005.json", path]


def test_a_night_on_another_machine_that_shows_life_goes_on(tmp_path):
    path = f"{FOLDER}/attempts/{'0' * 32}.json"

    class Beating(Store):
        """The store of a corpus on which another machine works."""

        def entries(self, prefix):
            if prefix == f"{FOLDER}/attempts":
                self.write(path, b'{"machine": "another"}')
            return super().entries(prefix)

    store = Beating(str(tmp_path))
    store.write(path, b'{"machine": "another"}')
    store.write(f"{FOLDER}/000004.json", b'{"attempt": "' + b"0" * 32 + b'"}')
    with Attempt(store, FOLDER) as attempt:
        assert at_work(store, attempt) == path

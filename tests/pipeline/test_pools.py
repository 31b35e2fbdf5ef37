"""How many actors each stage gets: examples by hand, and what holds on every cluster."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anything3d.errors import ConfigError
from jobs.command import read_preset
from pipeline.config import Workers, load
from pipeline.measured import Measured
from pipeline.pools import SHARED, Node, described, placed, pooled, sizes, throughput, together, worth
from pipeline.release.partition import Tally

DEFAULT = load([read_preset("default")]).resources
MINI = load([read_preset("mini")]).resources
# Nobody measured these. They are as far apart as the issue expects: distillation takes nearly all of the time.
SECONDS = {
    "index": 0.001,
    "segment": 0.3,
    "caption": 0.2,
    "invert": 5.0,
    "lift": 4.0,
    "reconstruct": 60.0,
    "mesh": 0.5,
    "score": 0.5,
}


def wanted(resources, **workers: int) -> dict[str, Workers]:
    stages = {name: getattr(resources, name) for name in resources.stages}
    return stages | {name: replace(stages[name], workers=n) for name, n in workers.items()}


def cluster(n: int, cpus: float, gpus: float) -> list[Node]:
    return [Node(f"node{i}", cpus, gpus) for i in range(n)]


def test_with_nothing_measured_each_of_eight_gpus_has_one_actor_of_every_stage():
    nodes = cluster(8, 24, 1)
    counts = sizes(wanted(DEFAULT), nodes, {})
    assert counts == dict.fromkeys(DEFAULT.stages, 8)  # shares 0.1 + 0.1 + 0.2 + 0.15 + 0.4 + 0.05 = 1
    names = sorted(node.name for node in nodes)
    where = placed(wanted(DEFAULT), nodes, counts)
    assert all(sorted(where[name]) == names for name, own in wanted(DEFAULT).items() if own.num_gpus)
    assert where["mesh"] == [""] * 8
    assert sizes(wanted(DEFAULT), cluster(1, 192, 8), {}) == counts


def test_with_measured_times_the_gpus_go_to_the_stage_that_takes_long():
    nodes = cluster(1, 192, 8)
    counts = sizes(wanted(DEFAULT), nodes, SECONDS)
    # 2 x 0.4 on each of 8 GPUs: 16 actors of reconstruct, an object in 3.75 s. So invert (5 s) and lift (4 s) need 2.
    # What is left of each GPU, 0.2, takes 0.2, 0.2, 0.15 + 0.05, 0.15, 0.1 + 0.1. A 17th reconstruct finds no GPU.
    assert counts == dict.fromkeys(DEFAULT.stages, 1) | {"invert": 2, "lift": 2, "reconstruct": 16}
    assert throughput(counts, SECONDS) == 16 / 60
    gpus = sum(getattr(DEFAULT, name).num_gpus * n for name, n in counts.items())
    assert described(counts, wanted(DEFAULT), nodes) == (
        "actors: index 1, segment 1, caption 1, invert 2, lift 2, reconstruct 16, mesh 1, score 1"
        f" ({gpus:.4g} of 8 GPUs; chosen; resources.<stage>.workers sets them)"
    )


def test_sixteen_nodes_of_eight_gpus_have_sixteen_times_the_actors_that_take_long():
    nodes = cluster(16, 192, 8)
    counts = sizes(wanted(DEFAULT), nodes, SECONDS)
    # 2 x 0.4 on each of 128 GPUs; what is left of them, 25.6, is enough for the others.
    assert counts["reconstruct"] == 256
    assert counts["invert"] == 22  # 256 actors finish 4.27 objects a second; 5 s * 4.27 = 21.3
    assert Counter(placed(wanted(DEFAULT), nodes, counts)["reconstruct"]) == {node.name: 16 for node in nodes}


def test_two_cores_have_one_actor_of_every_stage_of_the_mini_preset():
    assert sizes(wanted(MINI), cluster(1, 2, 0), {}) == dict.fromkeys(MINI.stages, 1)
    assert sizes(wanted(MINI), cluster(1, 2, 0), SECONDS) == dict.fromkeys(MINI.stages, 1)


def test_without_a_gpu_the_cores_are_shared_by_time():
    counts = sizes(wanted(DEFAULT), cluster(1, 20, 0), SECONDS)
    # 12 actors of reconstruct need 5 s, as invert does. To be faster, both need one more: 13 + 2 + 6 exceed 20 cores.
    assert counts == dict.fromkeys(DEFAULT.stages, 1) | {"reconstruct": 12}
    assert "GPU" not in described(counts, wanted(DEFAULT), cluster(1, 20, 0))


def test_where_no_stage_runs_on_a_gpu_the_stages_share_their_actors():
    """2 cores: 2 actors, each for all stages. A stage with a number of its own keeps its own actors."""
    laptop = cluster(1, 2, 0)
    assert pooled(wanted(MINI), laptop) == dict.fromkeys(MINI.stages, SHARED)
    assert pooled(wanted(DEFAULT), laptop) == dict.fromkeys(DEFAULT.stages, SHARED)
    assert pooled(wanted(MINI), cluster(1, 8, 1)) == dict.fromkeys(MINI.stages, SHARED)  # nobody asks for the GPU
    assert pooled(wanted(DEFAULT), cluster(1, 8, 1)) == {stage: stage for stage in DEFAULT.stages}
    one = wanted(MINI, reconstruct=3)
    assert pooled(one, laptop) == dict.fromkeys(MINI.stages, SHARED) | {"reconstruct": "reconstruct"}
    own = {SHARED: together([one[stage] for stage in MINI.stages if stage != "reconstruct"])}
    assert sizes(own, laptop, {}) == {SHARED: 2}
    assert sizes(own | {"reconstruct": one["reconstruct"]}, laptop, {}) == {SHARED: 1, "reconstruct": 3}
    assert described({SHARED: 2}, own, laptop) == ("actors: shared 2 (chosen; resources.<stage>.workers sets them)")


def test_a_shared_actor_takes_the_most_that_one_of_its_stages_asks_for():
    some = [Workers(num_cpus=0.5, threads=3), Workers(num_cpus=2.0, num_gpus=0.5)]
    assert together(some) == Workers(num_cpus=2.0, threads=3, num_gpus=0.5)
    assert sizes({SHARED: together(some)}, cluster(1, 10, 0), {}) == {SHARED: 3}


def test_threads_count_as_cores_and_only_the_first_actors_may_exceed_them():
    stages = {"a": Workers(threads=4), "b": Workers()}
    assert sizes(stages, cluster(1, 2, 0), {"a": 9.0, "b": 1.0}) == {"a": 1, "b": 1}
    assert sizes(stages, cluster(1, 13, 0), {"a": 9.0, "b": 1.0}) == {"a": 3, "b": 1}


def test_a_set_number_stays_and_bounds_the_others_only_if_it_is_measured():
    nodes = cluster(1, 192, 8)
    counts = sizes(wanted(DEFAULT, reconstruct=4), nodes, SECONDS)
    assert counts == dict.fromkeys(DEFAULT.stages, 1) | {"reconstruct": 4}
    counts = sizes(wanted(DEFAULT, caption=1), nodes, {})
    assert counts["caption"] == 1
    assert counts["reconstruct"] >= 8
    assert "caption 1 (set), " in described(counts, wanted(DEFAULT, caption=1), nodes)


def test_whole_gpus_lie_on_one_node():
    stages = {"a": Workers(num_gpus=2.0), "b": Workers(num_gpus=0.5)}
    nodes = [Node("x", 64, 3), Node("y", 64, 3)]
    counts = sizes(stages, nodes, {"a": 8.0, "b": 1.0})
    assert counts == {"a": 2, "b": 1}
    assert placed(stages, nodes, counts) == {"a": ["x", "y"], "b": ["x"]}
    with pytest.raises(ConfigError, match=r"^gpus: .*a 1 x 2.*the cluster has 2"):
        sizes(stages, [Node("x", 64, 1), Node("y", 64, 1)], {})


def test_what_does_not_fit_at_all_is_refused_with_advice():
    with pytest.raises(ConfigError, match=r"^gpus: .*reconstruct 9 x 0\.4.*--one-stage-at-a-time"):
        sizes(wanted(DEFAULT, reconstruct=9), cluster(1, 64, 4), {})
    with pytest.raises(ConfigError, match=r"^gpus: "):  # 0.6 + 0.6 + 0.6 is less than 2, and no GPU takes two
        sizes({name: Workers(num_gpus=0.6) for name in "abc"}, cluster(1, 64, 2), {})
    with pytest.raises(ConfigError, match=r"^cpus: .*a 1 x 4.*at most 2 on a node"):
        sizes({"a": Workers(num_cpus=4)}, cluster(4, 2, 0), {})
    with pytest.raises(ConfigError, match=r"^cpus: "):
        sizes({"a": Workers(num_cpus=0.5, workers=5)}, cluster(1, 2, 0), {})
    with pytest.raises(ConfigError, match=r"^cpus: "):
        sizes({"a": Workers()}, [], {})


def test_pools_change_for_a_fifth_more_or_for_other_nodes():
    now, seconds = {"a": 10, "b": 1}, {"a": 10.0, "b": 0.1}
    assert not worth(now, {"a": 11, "b": 1}, seconds, same_nodes=True)
    assert worth(now, {"a": 12, "b": 1}, seconds, same_nodes=True)
    assert not worth(now, {"a": 10, "b": 9}, seconds, same_nodes=True)
    assert not worth(now, {"a": 20, "b": 1}, {"a": 10.0}, same_nodes=True)  # b is not measured
    assert worth(now, {"a": 9, "b": 1}, seconds, same_nodes=False)
    assert worth(now, {"a": 9, "b": 1}, {}, same_nodes=False)
    assert not worth(now, dict(now), seconds, same_nodes=False)


def test_seconds_per_object_count_photos_and_shards_by_their_objects():
    measured = Measured()
    assert measured.seconds_per_object() == {}
    measured.learn("index", Tally(2, 2, 20, 0, 0, 0, 6.0, 0.0))  # 10 photos a shard, 3 s a shard
    assert measured.seconds_per_object() == {}
    measured.learn("segment", Tally(1, 20, 80, 0, 0, 0, 40.0, 4.0))  # 4 objects a photo, 2 s a photo
    measured.learn("lift", Tally(1, 8, 8, 0, 0, 0, 8.0, 0.8), same=False)
    assert measured.seconds_per_object() == pytest.approx({"index": 3 / 40, "segment": 0.5, "lift": 1.0})
    measured.learn("lift", Tally(1, 8, 8, 0, 0, 0, 4.0, 0.8))
    measured.learn("lift", Tally(1, 8, 0, 0, 8, 0, 12.0, 0.8))
    assert measured.seconds_per_object()["lift"] == 1.0
    measured.learn("mesh", Tally(0, 0, 0, 0, 0, 0, 0.0, 0.0))
    assert "mesh" not in measured.seconds_per_object()


SHARES = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0]
OWN = st.tuples(st.sampled_from([0, 0, 0, 1, 2]), st.sampled_from(SHARES), st.integers(1, 3))
ALL = st.dictionaries(st.sampled_from("abcdef"), OWN, min_size=1)  # stage -> workers, num_gpus, threads
NODES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 4)), min_size=1, max_size=5)  # CPUs and GPUs
TIMES = st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1000))


def asked(rows, given_nodes) -> tuple[dict[str, Workers], list[Node]]:
    stages = {name: Workers(workers=n, num_gpus=share, threads=threads) for name, (n, share, threads) in rows.items()}
    return stages, [Node(f"node{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(given_nodes)]


def chosen(stages, nodes, seconds) -> dict[str, int] | None:
    try:
        return sizes(stages, nodes, seconds)
    except ConfigError:
        return None


@given(ALL, NODES, TIMES)
def test_no_cluster_is_asked_for_more_than_it_has(rows, given_nodes, seconds):
    stages, nodes = asked(rows, given_nodes)
    counts = chosen(stages, nodes, seconds)
    if counts is None:
        return
    assert all(counts[name] == own.workers or (not own.workers and counts[name] >= 1) for name, own in stages.items())
    where = placed(stages, nodes, counts)
    assert {name: len(places) for name, places in where.items()} == counts
    shares = {name: Fraction(str(own.num_gpus)) for name, own in stages.items()}
    for node in nodes:
        here = [shares[name] for name, places in where.items() for at in places if at == node.name]
        assert fits(sorted(here, reverse=True), [Fraction(1)] * node.gpus)
    first = {name: own.workers or 1 for name, own in stages.items()}
    if counts != first:
        assert sum(own.cpus * counts[name] for name, own in stages.items()) <= sum(node.cpus for node in nodes)


def fits(shares: list[Fraction], gpus: list[Fraction]) -> bool:
    """Whether shares fit GPUs, by trying every place of every one: slow, and without any rule of order."""
    if not shares:
        return True
    first, *others = shares
    if first >= 1:
        free = [i for i, room in enumerate(gpus) if room == 1][: int(first)]
        left = [Fraction(0) if i in free else room for i, room in enumerate(gpus)]
        return len(free) == first and fits(others, left)
    for i in [gpus.index(room) for room in set(gpus) if room >= first]:
        if fits(others, [*gpus[:i], gpus[i] - first, *gpus[i + 1 :]]):
            return True
    return False


@given(ALL, NODES, TIMES, st.integers(1, 40), st.integers(0, 4))
def test_one_more_node_never_makes_the_slowest_stage_slower(rows, given_nodes, seconds, cpus, gpus):
    stages, nodes = asked(rows, given_nodes)
    before = chosen(stages, nodes, seconds)
    after = chosen(stages, [*nodes, Node("new", cpus, gpus)], seconds)
    if before is not None:
        assert after is not None
        assert throughput(after, seconds) >= throughput(before, seconds)


@given(ALL, NODES, TIMES)
def test_no_single_actor_more_would_make_the_run_faster(rows, given_nodes, seconds):
    """The slowest stage that may grow cannot, or is as fast as a stage that may not."""
    stages, nodes = asked(rows, given_nodes)
    counts = chosen(stages, nodes, seconds)
    if counts is None:
        return
    for name in (name for name, own in stages.items() if not own.workers):
        more = counts | {name: counts[name] + 1}
        if throughput(more, seconds) > throughput(counts, seconds):
            set_so = {other: replace(own, workers=more[other]) for other, own in stages.items()}
            cpus = sum(own.cpus * more[other] for other, own in stages.items())
            assert cpus > sum(node.cpus for node in nodes) or chosen(set_so, nodes, seconds) is None

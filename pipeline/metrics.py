"""What a run tells Prometheus, through the agents of Ray. Only the driver of the run counts.

Ray puts `ray_` before the names. docs/cluster.md says how they are scraped, and deploy/grafana.json shows them.
"""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Metric

from pipeline.commit import Commit
from pipeline.pool import Pool
from pipeline.price import Spent
from pipeline.progress import Shown

CORPUS = "corpus"  # label of every metric: two runs may be at work on one cluster
COUNTERS: Mapping[str, tuple[tuple[str, ...], str]] = {  # name -> its labels beside CORPUS, what it says
    "anything3d_items_done_total": (("stage",), "items that the run has done"),
    "anything3d_rejects_total": (("stage", "kind", "reason"), "items and parts of items that the run has rejected"),
    "anything3d_actor_seconds_total": (("stage",), "seconds that actors took for the cells that the run has made"),
    "anything3d_gpu_seconds_total": (("stage",), "the same times the share of a GPU that an actor has"),
    "anything3d_cost_total": (("stage", "currency"), "what these cells cost by the prices in the settings"),
}
GAUGES: Mapping[str, tuple[tuple[str, ...], str]] = {  # the same
    "anything3d_items_expected": (("stage",), "items that are known to come through the stage"),
    "anything3d_items_left": (("stage",), "those of them that have not come through it yet"),
    "anything3d_seconds_per_item": (("stage",), "seconds of an actor for an item, mean over the cells of the corpus"),
    "anything3d_actors_wanted": (("pool",), "actors that the run has chosen; pool is a stage, or `shared`"),
    "anything3d_actors_ready": (("pool",), "those of them that are up"),
    "anything3d_actors_at_work": (("pool",), "those of them that make a cell now"),
    "anything3d_shards_expected": ((), "shards of the run"),
    "anything3d_shards_finished": ((), "those of them that are finished"),
    "anything3d_seconds_left": ((), "estimate of the seconds that the run still takes"),
}


class Metrics:
    """The metrics of a run into one corpus."""

    def __init__(self, corpus: str, currency: str) -> None:
        self._corpus, self._currency = corpus, currency
        self._counters = {name: self._labelled(Counter, name, *given) for name, given in COUNTERS.items()}
        self._gauges = {name: self._labelled(Gauge, name, *given) for name, given in GAUGES.items()}

    def made(self, items: int, commit: Commit, took: Spent) -> None:
        """An actor has made the cell of a unit with so many items."""
        stage = {"stage": commit.stage}
        self._add("anything3d_items_done_total", items, stage)
        for cause, count in commit.reasons.items():
            kind, reason = cause.split()
            self._add("anything3d_rejects_total", count, {**stage, "kind": kind, "reason": reason})
        self._add("anything3d_actor_seconds_total", took.seconds, stage)
        self._add("anything3d_gpu_seconds_total", took.gpu_seconds, stage)
        self._add("anything3d_cost_total", took.cost, {**stage, "currency": self._currency})

    def look(self, now: Shown, per_item: Mapping[str, float], pools: Mapping[str, Pool]) -> None:
        """How far the run is. Ray forgets what is not said again within two of its intervals of 10 s."""
        for stage, count in now.stages.items():
            self._set("anything3d_items_expected", count.items, {"stage": stage})
            self._set("anything3d_items_left", count.left, {"stage": stage})
        for stage, seconds in per_item.items():
            self._set("anything3d_seconds_per_item", seconds, {"stage": stage})
        for name, pool in pools.items():
            self._set("anything3d_actors_wanted", pool.size, {"pool": name})
            self._set("anything3d_actors_ready", pool.ready, {"pool": name})
            self._set("anything3d_actors_at_work", len(pool.at_work), {"pool": name})
        finished, _, total = now.shards
        self._set("anything3d_shards_expected", total)
        self._set("anything3d_shards_finished", finished)
        self._set("anything3d_seconds_left", now.left.seconds)

    def _labelled(self, kind: type[Metric], name: str, labels: tuple[str, ...], says: str) -> Metric:
        return kind(name, says, (CORPUS, *labels)).set_default_tags({CORPUS: self._corpus})

    def _add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        if value > 0:  # Ray takes no zeros
            self._counters[name].inc(value, labels)

    def _set(self, name: str, value: float, labels: Mapping[str, str] = {}) -> None:
        self._gauges[name].set(value, labels)

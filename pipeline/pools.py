"""How many actors each stage gets on a cluster, and on which nodes. Nothing here uses Ray.

Where actors take GPUs, each stage has actors of its own. Where none does, the stages share their actors: each of these
makes cells of any stage. So a small machine imports every library once for each core, and not once for each stage.

A stage is as fast as its actors together: n actors that need t seconds an object finish n / t objects a second. The
slowest stage sets the pace of the run. So the slowest stage gets one more actor, again and again, until that does not
fit the cluster. Actors that stages share count as those of one stage.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from anything3d.errors import ConfigError
from pipeline.config import Workers

UNITS = 10_000  # Ray counts GPUs and CPUs in parts of this size; whole numbers have no rounding errors
WORTH = 1.2  # times the throughput from which other pools are worth that actors end and others load their networks
ASKED = ("workers", "num_gpus", "num_cpus", "threads")
SHARED = "shared"  # name of the actors that stages share
Placed = dict[str, list[str]]  # stage -> the node of each of its actors; "" is any node


@dataclass(frozen=True, slots=True)
class Node:
    """What one node of the cluster offers to actors."""

    name: str
    cpus: float
    gpus: float  # the whole GPUs of it count


def on_cluster(wanted: Mapping[str, Workers], nodes: Sequence[Node]) -> dict[str, Workers]:
    """The settings of the stages as they hold on these nodes: without a GPU, every stage runs on the CPU."""
    if any(node.gpus >= 1 for node in nodes):
        return dict(wanted)
    return {stage: replace(own, num_gpus=0.0) for stage, own in wanted.items()}


def pooled(wanted: Mapping[str, Workers], nodes: Sequence[Node]) -> dict[str, str]:
    """Stage -> the name of the pool of actors that serves it, which is its own name or SHARED.

    Stages whose `workers` is not set share their actors, unless any stage runs on a GPU.
    """
    apart = any(own.num_gpus for own in on_cluster(wanted, nodes).values())
    return {stage: stage if apart or own.workers else SHARED for stage, own in wanted.items()}


def together(some: Sequence[Workers]) -> Workers:
    """The settings of actors that serve all of these stages: the most that any of them asks for."""
    return Workers(**{name: max(getattr(own, name) for own in some) for name in ASKED})


def sizes(wanted: Mapping[str, Workers], nodes: Sequence[Node], seconds: Mapping[str, float]) -> dict[str, int]:
    """The number of actors of each stage, at least 1.

    A stage whose `workers` is set has exactly so many. The others share what is left of the GPUs, and of the CPUs, of
    which an actor takes `Workers.cpus`. The first actor of a stage may exceed the CPUs, because threads can share them.
    `seconds` is what an object costs in a stage, as `Measured.seconds_per_object` gives it. A stage that it lacks
    counts as the mean of the others. A stage that is set and measured bounds the others: they need not be faster.

    Raises: ConfigError("gpus") or ConfigError("cpus") if the first actors and those that are set do not fit.
    """
    wanted = on_cluster(wanted, nodes)
    counts = {stage: own.workers or 1 for stage, own in wanted.items()}
    _check(wanted, nodes, counts)
    times = _times(wanted, seconds)
    free = [stage for stage, own in wanted.items() if not own.workers]
    bound = max((times[stage] / counts[stage] for stage in wanted if stage in seconds and stage not in free), default=0)
    while free:
        slowest = max(times[stage] / counts[stage] for stage in free)
        more = counts | {stage: counts[stage] + 1 for stage in free if times[stage] / counts[stage] == slowest}
        if slowest <= bound or not _fit(wanted, nodes, more):
            break
        counts = more
    return counts


def placed(wanted: Mapping[str, Workers], nodes: Sequence[Node], counts: Mapping[str, int]) -> Placed:
    """The nodes of so many actors, as evenly as their shares fit. An actor without a GPU may be on any node.

    Ray sees only how much of a node is free, and not how it is split. It may choose a node whose GPUs all have a bit
    left. So the actors have to be told their nodes. On one node, they fit if the larger shares come first.

    Raises: ConfigError("gpus") if they do not fit.
    """
    wanted = on_cluster(wanted, nodes)
    found = _spread(wanted, nodes, counts) or _packed(wanted, nodes, counts)
    if found is None:
        raise _too_many_gpus(wanted, nodes, counts)
    return found


def worth(now: Mapping[str, int], new: Mapping[str, int], seconds: Mapping[str, float], *, same_nodes: bool) -> bool:
    """Whether the actors are to be changed from `now` to `new`: because the nodes have changed, or it is far faster.

    On the same nodes, no change is worth it before every stage is measured. The first time of a stage may be far from
    what it counted as until then, and there would be one change for each stage.
    """
    if now == new or not same_nodes:
        return now != new
    return new.keys() <= seconds.keys() and throughput(new, seconds) >= WORTH * throughput(now, seconds)


def throughput(counts: Mapping[str, int], seconds: Mapping[str, float]) -> float:
    """Objects a second of the slowest stage. Where nothing is measured, every actor needs a second."""
    times = _times(counts, seconds)
    return min(counts[stage] / times[stage] for stage in counts)


def described(counts: Mapping[str, int], wanted: Mapping[str, Workers], nodes: Sequence[Node]) -> str:
    """One line about the choice."""
    wanted, every = on_cluster(wanted, nodes), all(own.workers for own in wanted.values())
    parts = (f"{name} {n}{' (set)' if wanted[name].workers and not every else ''}" for name, n in counts.items())
    how = "set by resources.<stage>.workers" if every else "chosen; resources.<stage>.workers sets them"
    used = sum(wanted[stage].num_gpus * n for stage, n in counts.items())
    on = f"{used:.4g} of {sum(int(node.gpus) for node in nodes)} GPUs; " if used else ""
    return f"actors: {', '.join(parts)} ({on}{how})"


def _times(stages: Mapping[str, object], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds per object, above 0, of every stage."""
    known = [max(seconds[stage], 1e-9) for stage in stages if stage in seconds]
    usual = sum(known) / len(known) if known else 1.0
    return {stage: max(seconds.get(stage, usual), 1e-9) for stage in stages}


def _check(wanted: Mapping[str, Workers], nodes: Sequence[Node], counts: Mapping[str, int]) -> None:
    cpus = sum(wanted[stage].num_cpus * n for stage, n in counts.items())
    largest, total = max((node.cpus for node in nodes), default=0.0), sum(node.cpus for node in nodes)
    if round(cpus * UNITS) > round(total * UNITS) or any(own.num_cpus > largest for own in wanted.values()):
        parts = ", ".join(f"{stage} {n} x {wanted[stage].num_cpus:g}" for stage, n in counts.items())
        raise ConfigError(
            "cpus",
            f"The stages want {cpus:g} CPUs ({parts}), and the cluster has {total:g}, at most {largest:g} on a node."
            " Lower resources.<stage>.num_cpus or workers, give --one-stage-at-a-time, or add nodes.",
        )
    if _packed(wanted, nodes, counts) is None:
        raise _too_many_gpus(wanted, nodes, counts)


def _too_many_gpus(wanted: Mapping[str, Workers], nodes: Sequence[Node], counts: Mapping[str, int]) -> ConfigError:
    total, have = sum(wanted[stage].num_gpus * n for stage, n in counts.items()), sum(int(node.gpus) for node in nodes)
    on_gpu = {stage: own.num_gpus for stage, own in wanted.items() if own.num_gpus}
    parts = ", ".join(f"{stage} {counts[stage]} x {share:g}" for stage, share in on_gpu.items())
    return ConfigError(
        "gpus",
        f"The stages want {total:g} GPUs ({parts}), and the cluster has {have}. A share lies on one GPU, and whole GPUs"
        " lie on one node. Lower resources.<stage>.workers or num_gpus, give --one-stage-at-a-time, or raise"
        " min_workers in cluster.yaml.",
    )


def _fit(wanted: Mapping[str, Workers], nodes: Sequence[Node], counts: Mapping[str, int]) -> bool:
    cpus = sum(round(wanted[stage].cpus * UNITS) * n for stage, n in counts.items())
    on_gpu = {stage: own for stage, own in wanted.items() if own.num_gpus}
    return cpus <= sum(round(node.cpus * UNITS) for node in nodes) and _packed(on_gpu, nodes, counts) is not None


def _by_share(wanted: Mapping[str, Workers], counts: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Stages, their shares in UNITS and their numbers of actors, the largest share first."""
    rows = [(stage, round(own.num_gpus * UNITS), counts[stage]) for stage, own in wanted.items()]
    return sorted(rows, key=lambda row: -row[1])


def _packed(wanted: Mapping[str, Workers], nodes: Sequence[Node], counts: Mapping[str, int]) -> Placed | None:
    """First fit, the largest shares first; None if they do not fit. One more node at the end never makes it fail."""
    # Free UNITS, and the nodes that have so much free, in order; later the nodes of GPUs, one entry a GPU.
    room = [(free, [node.name for node in some]) for free, some in groupby(nodes, lambda node: int(node.gpus) * UNITS)]
    split, made = False, Placed()
    for stage, share, n in _by_share(wanted, counts):
        if share < UNITS and not split:
            room, split = [(UNITS, [name for free, names in room for name in names * (free // UNITS)])], True
        own, rest = list[str](), list[tuple[int, list[str]]]()
        for free, names in room if share else ():
            each = free // share
            full = min(len(names), (n - len(own)) // each) if each else 0
            own += names[:full] * each
            last = min(each, n - len(own)) if full < len(names) else 0  # on the next one, which is not filled
            own += names[full : full + 1] * last
            rest += [(free - each * share, names[:full]), (free - last * share, names[full : full + 1])]
            rest += [(free, names[full + 1 :])]
        if share and len(own) < n:
            return None
        made[stage], room = (own, [run for run in rest if run[1]]) if share else ([""] * n, room)
    return {stage: made[stage] for stage in wanted}


def _spread(wanted: Mapping[str, Workers], nodes: Sequence[Node], counts: Mapping[str, int]) -> Placed | None:
    """Each actor on the emptiest GPU, the largest shares first; None if that does not fit, or one takes whole GPUs."""
    bins = [(0, place) for place, node in enumerate(nodes) for _ in range(int(node.gpus))]  # used UNITS of a GPU
    made = Placed()
    for stage, share, n in _by_share(wanted, counts):
        if share >= UNITS:
            return None
        own = made[stage] = [] if share else [""] * n
        while len(own) < n:
            used, place = bins[0] if bins else (UNITS, 0)
            if used + share > UNITS:
                return None
            heapq.heapreplace(bins, (used + share, place))
            own.append(nodes[place].name)
    return {stage: made[stage] for stage in wanted}

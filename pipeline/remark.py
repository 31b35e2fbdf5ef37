"""What whoever looks at the results has to know about the networks that made them."""

from collections.abc import Collection

from anything3d.models.weights import packaged, trained

ONLY_MINI = (
    "The packaged mini networks know only the mini world. On photographs the results mean nothing; use --preset"
    " default."
)


def remark(weights: Collection[str], mini_world: bool = False) -> str:
    """One sentence on these weights, or "" if there is nothing to say; `mini_world`: the photos are of that world."""
    if untrained := [name for name in weights if not trained(name)]:
        return f"Untrained networks (random weights, results mean nothing): {', '.join(untrained)}."
    return "" if mini_world or not any(map(packaged, weights)) else ONLY_MINI

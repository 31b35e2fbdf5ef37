"""Which world the ground truth of a shard is of. This file imports no torch."""

import json

MINI = "mini"  # `world` of what the mini world's own truth says; other truths name none


def is_mini_world(data: bytes) -> bool:
    """Whether the contents of truth.json say that it is of the mini world; damaged ones do not, and are no error."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(root, dict) and root.get("world") == MINI

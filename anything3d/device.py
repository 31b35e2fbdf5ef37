"""The few global switches of torch that a worker sets once, before it loads a network."""

import torch


def use_threads(count: int) -> None:
    """Let this process's tensor operations use `count` threads; Ray would set one or all, whatever the stage needs."""
    torch.set_num_threads(count)

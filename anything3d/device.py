"""The few global switches of torch that a worker sets once, before it loads a network."""

import os

import torch


def use_threads(count: int) -> None:
    """Let this process's tensor operations use `count` threads; Ray would set one or all, whatever the stage needs."""
    torch.set_num_threads(count)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hide_progress_bars() -> None:
    """Let transformers and diffusers load their networks in silence."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    diffusers.disable_progress_bar()
    transformers.disable_progress_bar()

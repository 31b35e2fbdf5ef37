"""The device, and the few global switches of torch that a worker sets once, before it loads a network."""

import os
import re

import torch

from anything3d.errors import ConfigError


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


def check_device(name: str) -> None:
    """Refuses a device that is not there before anything loads.

    Raises: ConfigError.
    """
    if name == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ConfigError("device", f"no device {name!r}; known: cpu, cuda, cuda:0, cuda:1, ...")
    count, number = torch.cuda.device_count(), int(name.partition(":")[2] or 0)
    if number >= count:
        devices = f"{count} CUDA devices are" if count else "no CUDA device is"
        raise ConfigError("device", f"{devices} visible to torch, {name} is wanted; take cpu, or see nvidia-smi")


def has_bfloat16(name: str) -> bool:
    """Whether a GPU, or a CPU of Intel or AMD, multiplies in bfloat16 itself. A CPU that does not takes seven times as
    long as in float32.
    """
    if name.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def release_memory() -> None:
    """Give back what torch keeps in reserve on a device, after a computation ran out of memory."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()

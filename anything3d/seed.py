"""Random numbers that belong to an item. They are the same whatever the batch, the actor or the order is."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generators(seed: int, stage: str, ids: Sequence[str]) -> list[torch.Generator]:
    """One CPU generator per item, seeded by (run seed, stage, id)."""
    digests = (hashlib.sha256(f"{seed}/{stage}/{item}".encode()).digest() for item in ids)
    return [torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")) for digest in digests]


def randn(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device | str = "cpu") -> Tensor:
    """Normal noise [B, *shape]; row b comes from `generators[b]`."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]).to(device, non_blocking=True)


def rand(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device | str = "cpu") -> Tensor:
    """Uniform numbers in [0, 1) [B, *shape]; row b comes from `generators[b]`."""
    return torch.stack([torch.rand(tuple(shape), generator=g) for g in generators]).to(device, non_blocking=True)

"""Counts what some code would compute and keep, on tensors that only have a shape.

FLOPs are those of torch's FlopCounterMode: two for each multiplication and addition of matrix products, convolutions
and attention. Everything else counts as nothing.

Bytes are those of all storages that are alive at once. A storage is counted from the operation that makes it until its
last tensor is gone. So the weights, which are made before, are not among them, and neither are the work space of an
operation and what an allocator rounds up.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

aten = torch.ops.aten
ANSWER = 1  # what a host read gives: tensors without values have none


@dataclass(slots=True)
class Counts:
    """What was counted."""

    flops: int = 0
    peak_bytes: int = 0  # of all tensors that were made and alive at once
    host_reads: int = 0  # how often a value or a number of values was asked for, for which a device has to be waited
    flops_in: dict[str, int] = field(default_factory=dict)  # "bfloat16 on cuda" -> FLOPs with such a first input
    flops_of: dict[str, int] = field(default_factory=dict)  # class of a network -> its FLOPs, of its backward pass too


@contextmanager
def counting() -> Iterator[Counts]:
    """Counts what is done inside. Only tensors of a FakeTensorMode that is on already may be used."""
    counts, live = Counts(), _Live()
    with live, FlopCounterMode(display=False) as flops:
        yield counts
    counts.flops, counts.peak_bytes, counts.host_reads = flops.get_total_flops(), live.peak, live.host_reads
    counts.flops_in = live.flops_in
    by_module: Mapping[str, Mapping[Any, int]] = flops.get_flop_counts()
    counts.flops_of = {
        name: sum(of.values()) for name, of in by_module.items() if "." not in name and name != "Global" and of
    }


class _Live(TorchDispatchMode):
    """Follows every storage that is made, and answers what the host asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.host_reads = 0
        self.flops_in: dict[str, int] = {}
        self.known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own protocol, here and below
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """What the operation gives. Its storages are followed."""
        del types
        if func is aten._local_scalar_dense.default:
            self.host_reads += 1
            return _answer(args[0])
        if func is aten.nonzero.default:  # the largest answer: everything
            self.host_reads += 1
            out = torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64, device=args[0].device)
        else:
            out = func(*args, **(kwargs or {}))
            self._look(func, args, kwargs or {}, out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return out

    def _look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:  # noqa: ANN401
        """Whether the host waits for this, and which numbers a matrix product is of."""
        if func is aten._to_copy.default and out.device.type == "cpu" != args[0].device.type:
            self.host_reads += 1
        if func._overloadpacket in flop_registry:
            first = next(arg for arg in args if isinstance(arg, Tensor) and arg.dim() > 1)  # a bias comes before, too
            kind = f"{str(first.dtype).removeprefix('torch.')} on {first.device.type}"
            flops = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
            self.flops_in[kind] = self.flops_in.get(kind, 0) + flops

    def _follow(self, storage: Any) -> None:  # noqa: ANN401
        if storage in self.known:
            return
        self.known[storage] = None
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._end, size)

    def _end(self, size: int) -> None:
        self.live -= size


def _answer(asked: Tensor) -> bool | int | float:
    if asked.dtype is torch.bool:
        return bool(ANSWER)
    return float(ANSWER) if asked.is_floating_point() else ANSWER

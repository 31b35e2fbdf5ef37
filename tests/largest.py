"""How large the largest tensor is that PyTorch makes while something runs."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """A context in which every tensor that an operation gives is measured."""

    numbers = 0  # of the largest tensor so far

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = operation(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(one.numel() for one in tree_leaves(given) if isinstance(one, Tensor))])
        return given

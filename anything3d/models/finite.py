"""What becomes of values that are not finite: they are counted, and they end an object, or the run.

A NaN in one object of a batch belongs to that object. All objects of a batch share the network and its precision. So a
NaN in every object is the network's fault, and it ends the run.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anything3d.errors import WeightsError


def infinite_as_nan(values: Tensor) -> Tensor:
    """Inf becomes NaN: `clamp` lets a NaN through, and makes a sound number of Inf."""
    return torch.where(values.isfinite(), values, torch.nan)


def check_network(not_finite: Sequence[bool], is_sound: Callable[[], bool], weights: str, dtype: torch.dtype) -> None:
    """Of which objects of a batch the network `weights` made NaN or Inf; of all of them, it is the network's fault.

    An object alone may be the cause itself: then the network has to be sound (`is_sound`) on something plain.

    Raises: WeightsError("weights_not_finite").
    """
    if not not_finite or not all(not_finite) or (len(not_finite) == 1 and is_sound()):
        return
    precision = str(dtype).removeprefix("torch.")
    remedy = {
        "float16": "set dtype to bfloat16 or float32, whose numbers reach further",
        "bfloat16": "set dtype to float32, or get the weights again",
    }.get(precision, "get the weights again: a file is damaged, or of another network")
    raise WeightsError(
        "weights_not_finite",
        f"{weights} in {precision} says NaN or Inf of every object of a batch ({len(not_finite)}); {remedy}",
    )

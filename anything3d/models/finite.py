"""What becomes of values that are not finite: they are counted, and they end an object, or the run.

A NaN belongs to its object, if the network is sound on something plain. If all objects of a batch have one, and the
network makes it of something plain, too, it is the network's fault, and it ends the run.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anything3d.errors import WeightsError


def infinite_as_nan(values: Tensor) -> Tensor:
    """Inf becomes NaN: `clamp` lets a NaN through, and makes a sound number of Inf."""
    return torch.where(values.isfinite(), values, torch.nan)


def check_network(not_finite: Sequence[bool], is_sound: Callable[[], bool], weights: str, dtype: torch.dtype) -> None:
    """Of which objects of a batch the network `weights` made NaN or Inf; of all of them, `is_sound` is asked.

    It says whether the network is sound on something plain. So what becomes of an object does not depend on the others.

    Raises: WeightsError("weights_not_finite").
    """
    if not not_finite or not all(not_finite) or is_sound():
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

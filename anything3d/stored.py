"""Files of tensors as their owners publish them: safetensors, or archives of torch, of which only tensors are read."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from anything3d.errors import WeightsError

PIECES = 8  # in which a file is converted: only one of them lies in memory beside what has come of the others


def read_tensors(path: Path, dtype: torch.dtype | None = None, part: str = "") -> dict[str, Tensor]:
    """The tensors of a file by name, memory-mapped. With a `dtype` those whose names begin with `part` are converted.

    Names may stand one level down, under "state_dict".

    Raises: WeightsError "weights_broken" if the file is damaged or holds code, "weights_mismatch" if no named tensors.
    """
    tensors = _mapped(path)
    names = [name for name, value in tensors.items() if dtype and name.startswith(part) and value.dtype != dtype]
    for place in range(PIECES if names else 0):
        mapped = _mapped(path)  # anew: what has been read stays in memory as long as its mapping
        tensors |= {name: mapped[name].to(dtype) for name in names[place::PIECES]}
    return tensors


def fill(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Make the tensors the network's parameters; nothing is copied.

    Raises: WeightsError("weights_mismatch") that names the file, and the tensors that are missing, unknown or of
    another shape.
    """
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError("weights_mismatch", f"{path}: {str(error)[:500]}") from error


def _mapped(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise WeightsError("weights_broken", f"{path}: {error}; download it again") from error
    tensors = stored.get("state_dict", stored) if isinstance(stored, dict) else None
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError("weights_mismatch", f"{path} does not hold tensors by name")
    return tensors

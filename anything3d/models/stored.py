"""Files of tensors as their owners publish them: safetensors, or archives of torch, of which only tensors are read."""

import errno
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from anything3d.errors import MachineError, WeightsError

STORAGE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EREMOTEIO)
PIECES = 8  # in which a file is converted: only one of them lies in memory beside what has come of the others


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What a library raises of the files at `path`, in our words.

    Raises: WeightsError("weights_broken") if they are missing, damaged or of another layout; MachineError if memory or
    storage failed.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        EOFError,
        pickle.UnpicklingError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        full = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
        if full or (isinstance(error, OSError) and error.errno in STORAGE):
            raise MachineError("machine", f"{path}: {error}") from error
        raise WeightsError("weights_broken", f"{path}: {error}; download it again") from error


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
    from safetensors.torch import load_file

    with reading(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    tensors = stored.get("state_dict", stored) if isinstance(stored, dict) else None
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError("weights_mismatch", f"{path} does not hold tensors by name")
    return tensors

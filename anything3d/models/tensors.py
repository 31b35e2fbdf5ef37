"""Files of tensors as their owners publish them: safetensors, or archives of torch, of which only tensors are read.

A loader takes the first of several usual names (`tensor_files`). What it raises of a file is said in our words
(`reading`).
"""

import errno
import pickle
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from anything3d.errors import MachineError, WeightsError
from anything3d.models.layout import read_settings
from anything3d.models.weights import directly_in, files

STORAGE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EREMOTEIO)
VARIANTS = ("", "fp16")
PIECES = 8  # in which a file is converted: only one of them lies in memory beside what has come of the others


def tensor_files(folder: Path, safetensors: str, pickled: str) -> tuple[bool, str | None]:
    """Which files of tensors a loader takes: whether safetensors or a pickle, and which variant of its names.

    The names are those of whole files; there may be shards with an index beside them. Of a pickle, only tensors are
    read. The first that is there of safetensors, their float16 variant, pickle and its variant is taken.

    Raises: WeightsError that says what is there and what is supported, or names a shard that is missing.
    """
    there = {
        path.name for path in directly_in(folder, *{Path(name).suffix for name in (safetensors, pickled)}, ".json")
    }
    wanted = []
    for name in (safetensors, pickled):
        for variant in VARIANTS:
            stem, suffix = name.rsplit(".", 1)
            middle = f".{variant}" if variant else ""
            whole, index = f"{stem}{middle}.{suffix}", f"{name}.index{middle}.json"
            wanted.append(whole)
            if whole in there:
                return name == safetensors, variant or None
            if index in there:
                _check_shards(folder / index, there)
                return name == safetensors, variant or None
    names = ", ".join(sorted(path.name for path in files(folder).values())) if folder.is_dir() else "no such folder"
    raise WeightsError(
        "weights_missing",
        f"{folder} has no tensors under a name that is known; there: {names or 'nothing'}; supported: "
        f"{', '.join(wanted)}, or shards with an index; rename or convert what is there, or get the folder again",
    )


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
    for piece in range(PIECES if names else 0):
        mapped = _mapped(path)  # anew: what has been read stays in memory as long as its mapping
        tensors |= {name: mapped[name].to(dtype) for name in names[piece::PIECES]}
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


def _check_shards(index: Path, there: Collection[str]) -> None:
    shards = read_settings(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise WeightsError("weights_broken", f"{index} names no shards (weight_map); download it again")
    if missing := sorted({str(name) for name in shards.values() if name not in there}):
        raise WeightsError("weights_missing", f"{index} names {missing[0]}, which is not beside it; download it")

"""Which objects look nearly the same, by the cosines of the embeddings of their crops.

The objects come in an order. An object is marked if it is near to an earlier one that is not marked itself. So no two
of the unmarked objects are near to each other, and each marked one is near to an unmarked one. All pairs are compared,
as far as one of the two can still be such an earlier object. Nothing is estimated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16
from torch import Tensor

ROWS, COLUMNS = 2048, 16_384  # objects that are compared at once with so many earlier ones: 134 MB of cosines


class Mark(NamedTuple):
    """A near-duplicate, by the places of the two objects in their order."""

    place: int
    of: int  # the nearest of the earlier objects that are not marked; the first of equally near ones
    cosine: float


def to_bytes(vector: Float[Tensor, "D"]) -> bytes:
    """One embedding as half-precision numbers. This rounds the cosine of two unit vectors by less than 0.001."""
    return bytes(vector.to("cpu", torch.float16).numpy().astype("<f2").tobytes())


def from_bytes(vectors: Sequence[bytes]) -> Float16[Tensor, "N D"]:
    """Embeddings of equal length, of which there is at least one."""
    return torch.frombuffer(bytearray().join(vectors), dtype=torch.float16).view(len(vectors), -1)


@torch.inference_mode()
def near_duplicates(
    vectors: Float16[Tensor, "N D"], min_cosine: float, device: str = "cpu", rows: int = ROWS
) -> list[Mark]:
    """The near-duplicates among these objects, in order.

    `vectors` are unit vectors. `rows` is how many are compared at once. It changes no mark, except where a cosine is
    within rounding of `min_cosine`.
    """
    marks, first = list[Mark](), torch.zeros(len(vectors), dtype=torch.long)  # places of the unmarked objects
    known = 0  # of these
    for start in range(0, len(vectors), rows):
        own = _unit(vectors[start : start + rows], device)
        cosines, of = _nearest(own, vectors, first[:known], device)
        among = (own @ own.T).tril(-1).cpu()
        marked = cosines >= min_cosine
        for row in (among >= min_cosine).any(1).nonzero().flatten().tolist():  # all others have no near one before them
            here = among[row, :row].masked_fill(marked[:row], -torch.inf).max(0) if row else None
            if here is not None and here.values > cosines[row]:
                cosines[row], of[row] = here.values, start + here.indices
                marked[row] = bool(cosines[row] >= min_cosine)
        for row in marked.nonzero().flatten().tolist():
            marks.append(Mark(start + row, int(of[row]), min(float(cosines[row]), 1.0)))
        new = (~marked).nonzero().flatten() + start
        first[known : known + len(new)] = new
        known += len(new)
    return marks


def _unit(vectors: Float16[Tensor, "N D"], device: str) -> Float[Tensor, "N D"]:
    """The rounding to half precision has changed the lengths a little."""
    return F.normalize(vectors.to(device, torch.float32), dim=1)


def _nearest(
    own: Float[Tensor, "R D"], vectors: Float16[Tensor, "N D"], places: Tensor, device: str
) -> tuple[Float[Tensor, "R"], Tensor]:
    """Of each of `own`: the largest cosine with the vectors at these places, and the place; -inf and -1 without any."""
    best, of = torch.full((len(own),), -torch.inf, device=device), torch.full((len(own),), -1, device=device)
    for some in places.split(COLUMNS) if len(places) else ():
        found = (own @ _unit(vectors[some], device).T).max(1)
        nearer = found.values > best
        best, of = torch.where(nearer, found.values, best), torch.where(nearer, some.to(device)[found.indices], of)
    return best.cpu(), of.cpu()

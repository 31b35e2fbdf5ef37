"""The Concept: what a diffusion model is prompted with, and its bytes.

Source: Gal et al. 2022 (textual inversion).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anything3d.errors import InputError
from anything3d.models.adapter import Adapter, Factors


@dataclass(frozen=True, slots=True)
class Concept:
    """B prompts as the text encoder's input: token ids (start, words, end, padding) and one embedding each.

    The embeddings are rows of the text encoder's table to begin with; inversion moves those of the words, and may adapt
    the networks to the objects as well.
    """

    tokens: Int[Tensor, "B L"]
    embeddings: Float[Tensor, "B L C"]
    adapter: Adapter | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Int[Tensor, "N"]) -> "Concept":
        return Concept(self.tokens[rows], self.embeddings[rows], self.adapter and self.adapter.rows(rows))

    def to(self, device: torch.device | str) -> "Concept":
        adapter = self.adapter and self.adapter.each(lambda factor: factor.to(device))
        return Concept(self.tokens.to(device), self.embeddings.to(device), adapter)


def join(concepts: Sequence[Concept]) -> Concept:
    """Concepts as one batch. All of them have an adapter of the same layers, or none has one."""
    adapters = [concept.adapter.layers for concept in concepts if concept.adapter is not None]
    assert len(adapters) in (0, len(concepts)), f"{len(adapters)} of {len(concepts)} concepts have an adapter"
    layers = {
        name: Factors(torch.cat([one[name].down for one in adapters]), torch.cat([one[name].up for one in adapters]))
        for name in (adapters[0] if adapters else ())
    }
    return Concept(
        torch.cat([concept.tokens for concept in concepts]),
        torch.cat([concept.embeddings for concept in concepts]),
        Adapter(layers) if adapters else None,
    )


def concept_to_bytes(concept: Concept) -> bytes:
    """One concept (B = 1) as safetensors: tokens [L] int64, embeddings [L, C] float32; down/LAYER, up/LAYER float32."""
    from safetensors.torch import save

    assert len(concept) == 1, f"concept_to_bytes writes one concept, got {len(concept)}"
    layers = concept.adapter.layers if concept.adapter else {}
    tensors = {"embeddings": concept.embeddings}
    tensors |= {f"down/{name}": layer.down for name, layer in layers.items()}
    tensors |= {f"up/{name}": layer.up for name, layer in layers.items()}
    floats = {name: tensor[0].detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    return save({"tokens": concept.tokens[0].cpu(), **floats})


def concepts_from_bytes(files: Sequence[bytes]) -> Concept:
    """The concepts of `concept_to_bytes`, as one batch.

    Raises: InputError("bad_concept") if one is not such a file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        rows = [load(data) for data in files]
        if any(row.keys() != rows[0].keys() for row in rows):
            raise KeyError("some have an adapter, others none or another one")
        stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        tokens, embeddings = stacked.pop("tokens"), stacked.pop("embeddings")
        names = [name.removeprefix("down/") for name in stacked if name.startswith("down/")]
        layers = {name: Factors(stacked.pop(f"down/{name}"), stacked.pop(f"up/{name}")) for name in names}
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise InputError("bad_concept", f"not a file of `concept_to_bytes`: {error}") from error
    kinds = (tokens.dtype, tokens.shape, embeddings.dtype, embeddings.ndim)
    if kinds != (torch.int64, embeddings.shape[:2], torch.float32, 3) or not embeddings.isfinite().all():
        raise InputError("bad_concept", f"tokens {tokens.dtype} and embeddings {embeddings.shape} are of no prompt")
    return Concept(tokens, embeddings, Adapter(layers) if layers else None)

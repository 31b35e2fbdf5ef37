"""Adapters: low-rank changes of a frozen denoiser's attention. Each object of a batch has its own.

A layer y = W x becomes y = W x + up (down x). Nothing is merged into W. So the objects share every call of a network,
although each has an adapter of its own.
Source: LoRA, Hu et al. 2021; which layers, and how they begin, as cloneofsimo/lora @d84074b has it for 3DFuse.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d import seed

UNET, TEXT = "unet", "text_encoder"
LAYERS = {UNET: re.compile(r"\.attn[12]\.|\.ff\.net\.0\."), TEXT: re.compile(r"\.self_attn\.")}  # net.0: the gate


@dataclass(frozen=True, slots=True)
class Factors:
    """The change of one layer with I inputs and O outputs for each of B objects; r is the rank."""

    down: Float[Tensor, "B r I"]
    up: Float[Tensor, "B O r"]

    def __call__(self, x: Float[Tensor, "B L I"]) -> Float[Tensor, "B L O"]:
        """What the layer adds to its output; row b of `x` belongs to object b."""
        return x @ self.down.to(x.dtype).mT @ self.up.to(x.dtype).mT


@dataclass(frozen=True, slots=True)
class Adapter:
    """The changes of B objects, by part and layer: "unet.down_blocks.0. ... .to_q"."""

    layers: Mapping[str, Factors]

    @classmethod
    def begin(cls, parts: Mapping[str, nn.Module], rank: int, generators: Sequence[torch.Generator]) -> "Adapter":
        """Of the parts UNET and TEXT. No change yet: up is 0, down normal with deviation 1 / rank."""
        return cls(
            {
                f"{part}.{name}": Factors(
                    seed.randn((rank, layer.in_features), generators, layer.weight.device) / rank,
                    torch.zeros(len(generators), layer.out_features, rank, device=layer.weight.device),
                )
                for part, network in parts.items()
                for name, layer in network.named_modules()
                if isinstance(layer, nn.Linear) and LAYERS[part].search(name)
            }
        )

    def factors(self, part: str) -> list[Tensor]:
        """Of all layers of a part."""
        layers = [layer for name, layer in self.layers.items() if name.startswith(part + ".")]
        return [factor for layer in layers for factor in (layer.down, layer.up)]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Adapter":
        """Another adapter, of changed factors."""
        return Adapter({name: Factors(change(layer.down), change(layer.up)) for name, layer in self.layers.items()})

    def rows(self, index: Int[Tensor, "N"] | slice) -> "Adapter":
        """The changes of these objects."""
        return self.each(lambda factor: factor[index])

    def scaled(self, share: float) -> "Adapter":
        """`share` of the change."""
        return Adapter({name: Factors(layer.down, layer.up * share) for name, layer in self.layers.items()})


@contextmanager
def adapted(network: nn.Module, part: str, adapter: Adapter | None) -> Iterator[None]:
    """Within the context, row b of what passes through the layers of `network` is changed as object b's are."""
    with ExitStack() as hooks:
        for name, factors in adapter.layers.items() if adapter else ():
            if name.startswith(part + "."):
                layer = network.get_submodule(name.removeprefix(part + "."))
                hooks.callback(layer.register_forward_hook(partial(_add, factors)).remove)
        yield


def _add(factors: Factors, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    del layer
    return output + factors(inputs[0])

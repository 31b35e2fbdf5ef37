"""The layers of Point-E's networks: transformer blocks, embeddings of times and coordinates, and fresh weights.

Source: Nichol et al. 2022 (arXiv 2212.08751), openai/point-e@fc8a607: layer order, names, initialisation.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

MAX_PERIOD = 10000  # of the slowest sinusoid of the time embedding, in steps of the 1024


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        return self.c_proj(F.gelu(self.c_fc(x)))


class SelfAttention(nn.Module):
    """Queries, keys and values lie interleaved head by head in `c_qkv`: [heads, (q, k, v), channels of a head]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        q, k, v = self.c_qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(
        self,
        x: Float[Tensor, "B L C"],
        modulation: Float[Tensor, "B layers 2 C"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """`modulation` scales (by 1 + the first) and shifts all tokens before each layer."""
        for layer, block in enumerate(self.resblocks):
            if modulation is not None:
                scale, shift = modulation[:, layer, :, None].unbind(1)
                x = x * (1 + scale) + shift
            x = block(x)
        return x


def waves(xyz: Float[Tensor, "B N 3"], bands: int) -> Float[Tensor, "B N W"]:
    """[sin | cos] of coordinates in model units, wavelengths 4, 2, 1, ...; W = 6 bands.

    A small network cannot make sharp edges out of bare coordinates. Source: NeRF, Mildenhall et al. 2020, equation 4.
    """
    scales = math.pi / 2 * 2.0 ** torch.arange(bands, device=xyz.device, dtype=xyz.dtype)
    phase = (xyz[..., None] * scales).flatten(2)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def time_embedding(t: Int[Tensor, "B"], width: int) -> Float[Tensor, "B C"]:
    """[cos | sin] of t times width / 2 frequencies from 1 down to (almost) 1 / MAX_PERIOD."""
    half = width // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) / half * torch.arange(half, device=t.device))
    phase = t[:, None].float() * frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def initialise(network: nn.Module, scale: float) -> None:
    """Attention and MLP weights normal with deviation scale / sqrt(width), their biases 0, as the official networks."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and name.split(".")[-1].startswith("c_"):
            width = min(layer.in_features, layer.out_features)
            nn.init.normal_(layer.weight, std=scale / math.sqrt(width))
            nn.init.zeros_(layer.bias)

"""Row 6: clouds of 8 images by Point-E's base network, against the official sampler's arithmetic, one by one.

The official package is on no index. What it computes is written out here from its code, openai/point-e@fc8a607
(models/transformer.py, diffusion/k_diffusion.py): attention by two products and a softmax, and guidance by a batch of
two. The network has the official architecture at a middle size, and random weights.
"""

import math
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F

from anything3d.models.pointe import sample
from anything3d.models.pointe.config import BASE
from anything3d.models.pointe.loading import build
from anything3d.models.pointe.schedule import alphas_cumprod, discrete_time
from anything3d.models.pointe.transformer import time_embedding
from anything3d.settings.lift import SamplerConfig
from tests.bench.row import Pair, Timed

IMAGES = {"full": 8, "toy": 2}
SIZES = {"full": (256, 8, 8, 512), "toy": (32, 2, 2, 24)}  # width, layers, heads, points
CLIP = {"grid_size": 8, "grid_feature_dim": 128}
SAMPLER = {"full": SamplerConfig(steps=6), "toy": SamplerConfig(steps=3)}


@contextmanager
def make(size, folder, device):
    width, layers, heads, points = SIZES[size]
    config = {"name": BASE, "width": width, "layers": layers, "heads": heads, "n_ctx": points}
    shared = {"input_channels": 6, "output_channels": 12, "time_token_cond": True, "init_scale": 0.25}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(config | shared, CLIP).requires_grad_(False)
        torch.nn.init.normal_(network.output_proj.weight, std=0.05)  # zeros would say nothing of the network
    network.to(device)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(IMAGES[size], 6, points, generator=generator).to(device)
    grids = torch.randn(IMAGES[size], CLIP["grid_feature_dim"], CLIP["grid_size"] ** 2, generator=generator).to(device)

    def peer():
        rows = zip(noise.split(1), grids.split(1), strict=True)
        return torch.cat([official_sample(network, some, grid, SAMPLER[size]) for some, grid in rows])

    yield Pair(lambda: sample(network, "base", noise, grids, SAMPLER[size]), peer, check)


def check(ours, theirs):
    most = float((ours - theirs).abs().max() / ours.abs().max())
    assert most < 1e-3, f"clouds differ by {most} of the largest entry"
    return f"clouds differ by at most {most:.1e} of the largest entry"


@torch.no_grad()
def official_sample(network, noise, grid, config):
    """`sample_heun` with guidance and no churn."""
    alphas_bar = alphas_cumprod("base")
    low, high = config.sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
    ramp = torch.linspace(0, 1, config.steps, dtype=torch.float64)
    sigmas = [*((high + ramp * (low - high)) ** config.rho).tolist(), 0.0]
    grids = torch.cat([grid, torch.zeros_like(grid)])

    def denoise(x, sigma):
        t = discrete_time(sigma, alphas_bar)
        seen = torch.cat([x, x]) / math.sqrt(1 + sigma**2)
        out = official_network(network, seen, torch.full((len(seen),), t, device=x.device), grids)[:, : x.shape[1]]
        clean = seen / math.sqrt(alphas_bar[t]) - math.sqrt(1 / alphas_bar[t] - 1) * out
        conditional, unconditional = clean.clamp(-1, 1).chunk(2)
        return unconditional + config.guidance * (conditional - unconditional)

    x = noise * config.sigma_max
    for sigma, lower in pairwise(sigmas):
        clean = denoise(x, sigma)
        d = (x - clean) / sigma
        if lower == 0:
            x = x + d * (lower - sigma)
        else:
            x_2 = x + d * (lower - sigma)
            d_2 = (x_2 - denoise(x_2, lower)) / lower
            x = x + (d + d_2) / 2 * (lower - sigma)
    scales = torch.tensor(network.config.channel_scales, device=x.device)[:, None]
    biases = torch.tensor(network.config.channel_biases, device=x.device)[:, None]
    return (clean - biases) / scales


def official_network(network, x, t, grids):
    """`CLIPImageGridPointDiffusionTransformer`."""
    width, heads = network.config.width, network.config.heads
    time = network.time_embed(time_embedding(t, width))[:, None]
    points = network.input_proj(x.permute(0, 2, 1))
    h = network.ln_pre(torch.cat([time, network.clip_embed(grids.permute(0, 2, 1)), points], dim=1))
    for block in network.backbone.resblocks:
        h = h + official_attention(block.attn, block.ln_1(h), heads)
        mlp = block.mlp
        h = h + mlp.c_proj(F.gelu(mlp.c_fc(block.ln_2(h))))
    return network.output_proj(network.ln_post(h)[:, -x.shape[2] :]).permute(0, 2, 1)


def official_attention(attention, x, heads):
    """`QKVMultiheadAttention`."""
    qkv = attention.c_qkv(x)
    qkv = qkv.view(*qkv.shape[:2], heads, -1)
    channels = qkv.shape[-1] // 3
    scale = 1 / math.sqrt(math.sqrt(channels))
    q, k, v = torch.split(qkv, channels, dim=-1)
    weight = torch.softmax(torch.einsum("bthc,bshc->bhts", q * scale, k * scale), dim=-1)
    return attention.c_proj(torch.einsum("bhts,bshc->bthc", weight, v).reshape(*x.shape[:2], -1))


ROW = Timed("6", "Point-E, 8 clouds in one batch", "the official sampler's arithmetic, one by one", 1.5, make, gpu=True)

"""The networks of Point-E: transformers over points, with the tensor names of the official checkpoints.

Points are channel-first, [B, 6, N]: x y z (z up, front -y), then r g b. *Data units* are canonical lengths and 0..255;
*model units*, about -1..1, are data * channel_scales + channel_biases, and what the diffusion works on. There is no
positional embedding, so any N will do.

Source: Nichol et al. 2022 (arXiv 2212.08751), openai/point-e@fc8a607: layer order, sizes, initialisation.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d.models.pointe.config import ClipSizes, NetworkConfig, SdfConfig
from anything3d.models.pointe.schedule import Schedule, alphas_cumprod

THICKNESS = 0.03  # longest sides: a cell counts by the normal density of its distance to the surface, of this deviation
SURFACE_CELLS = 768  # of a grid, at most, that count at all
FLAT = 0.01  # model units: deviation of a disc's density across it
IN_A_DISC = 9  # points of a cloud that make a disc
TINY = 1e-6
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


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_q = nn.Linear(width, width)
        self.c_kv = nn.Linear(width, 2 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L C"], data: Float[Tensor, "B M C"]) -> Float[Tensor, "B L C"]:
        q = self.c_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.c_kv(data).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(2, dim=-1)
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


class CrossBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = CrossAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.ln_3 = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B L C"], data: Float[Tensor, "B M C"]) -> Float[Tensor, "B L C"]:
        x = x + self.attn(self.ln_1(x), self.ln_2(data))
        return x + self.mlp(self.ln_3(x))


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


class CrossTransformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(layers))

    def forward(self, x: Float[Tensor, "B L C"], data: Float[Tensor, "B M C"]) -> Float[Tensor, "B L C"]:
        for block in self.resblocks:
            x = block(x, data)
        return x


class PointDenoiser(nn.Module):
    """Predicts the noise (or the clean points, `config.prediction`) in a cloud, given an image and a coarser cloud.

    Tokens: the condition's, then one for each point. `config.image` says what the image is: nothing, one CLIP vector
    (L2-normalised; multiplied here by the root of its size), or a grid of CLIP tokens. With `config.cond_ctx` the
    network is an upsampler and takes `low_res` in data units. Zeros in place of a condition mean: unconditional.
    """

    def __init__(self, config: NetworkConfig, clip: ClipSizes) -> None:
        super().__init__()
        self.config = config
        self.clip = clip
        width, channels = config.width, config.input_channels
        self.time_embed = Mlp(width, 4 * width)
        self.ln_pre = nn.LayerNorm(width)
        self.backbone = Transformer(width, config.layers, config.heads)
        self.ln_post = nn.LayerNorm(width)
        self.input_proj = nn.Linear(channels, width)
        self.output_proj = nn.Linear(width, config.output_channels)
        initialise(self, config.init_scale)
        nn.init.zeros_(self.output_proj.weight)
        nn.init.zeros_(self.output_proj.bias)
        if config.image == "vector":
            self.clip_embed: nn.Module = nn.Linear(clip.feature_dim, width)
        elif config.image == "grid":
            dim = clip.grid_feature_dim
            self.clip_embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        if config.pooled_channels:
            self.image_pool = ImagePool(clip, config.pooled_channels, config.pooled_width)
            # As loud as the points: without the norm the image drowns in them
            self.image_proj = nn.Sequential(nn.Linear(config.pooled_width, width), nn.LayerNorm(width))
            self.modulate = nn.Linear(width, config.layers * 2 * width)
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)
        if config.shape_cells:
            self.shape = CoarseShape(config.pooled_width, config.shape_cells)
        if config.known_reach:
            self.known = KnownSurface(width, "upsample" if config.cond_ctx else "base", config.known_reach)
        if config.wave_bands:
            self.wave_proj = nn.Linear(6 * config.wave_bands, width, bias=False)
        if config.cond_ctx:
            self.cond_point_proj = nn.Linear(channels, width)
            self.register_buffer("channel_scales", torch.tensor(config.channel_scales))
            self.register_buffer("channel_biases", torch.tensor(config.channel_biases))

    def forward(
        self,
        x: Float[Tensor, "B C N"],
        t: Int[Tensor, "B"],
        *,
        embeddings: Float[Tensor, "B D *G"] | None = None,
        low_res: Float[Tensor, "B C M"] | None = None,
    ) -> Float[Tensor, "B O N"]:
        noisy, modulation = x.transpose(1, 2), None
        if self.config.known_reach:  # what is left of a colour misleads: errors of one step grow in the next
            noisy = F.pad(noisy[..., :3], (0, x.shape[1] - 3))
        points = self.input_proj(noisy)
        if self.config.wave_bands:
            points = points + self.wave_proj(waves(x[:, :3].transpose(1, 2), self.config.wave_bands))
        if self.config.pooled_channels:
            pooled = self.image_pool(embeddings)
            image = self.image_proj(pooled)
            points = points + image[:, None]
            modulation = self.modulate(image).unflatten(1, (self.config.layers, 2, -1))
        if self.config.known_reach:
            if self.config.shape_cells:
                discs = self.shape.surface(self.shape(pooled))
            else:
                assert low_res is not None, f"{self.config.name} needs the coarse cloud"
                discs = Discs.around(self.model_units(low_res).transpose(1, 2))
            guess, told = self.known(discs, x, t)
            points = points + told
        tokens = torch.cat([*self._condition(t, embeddings, low_res, x.dtype), points], dim=1)
        hidden = self.ln_post(self.backbone(self.ln_pre(tokens), modulation))[:, -x.shape[2] :]
        found = self.output_proj(hidden)
        if self.config.known_reach:  # places are known, colours follow from places and image
            found = torch.cat([guess[..., :3], guess[..., 3:] + found[..., 3:]], dim=2)
        return found.transpose(1, 2)

    def _condition(
        self, t: Int[Tensor, "B"], embeddings: Tensor | None, low_res: Tensor | None, dtype: torch.dtype
    ) -> list[Float[Tensor, "B K C"]]:
        time = self.time_embed(time_embedding(t, self.config.width).to(dtype))[:, None]
        if self.config.image == "none":
            return [time]
        assert embeddings is not None, f"{self.config.name} needs the image's embeddings"
        if self.config.image == "vector":
            return [self.clip_embed(embeddings * math.sqrt(embeddings.shape[1]))[:, None], time]
        grid = self.clip_embed(embeddings.transpose(1, 2))
        if not self.config.cond_ctx:
            return [time, grid]
        assert low_res is not None, f"{self.config.name} needs the coarse cloud"
        return [time, grid, self.cond_point_proj(self.model_units(low_res).to(dtype).transpose(1, 2))]

    def model_units(self, low_res: Float[Tensor, "B C M"]) -> Float[Tensor, "B C M"]:
        """An upsampler's coarse cloud, as the diffusion has it."""
        return low_res * self.get_buffer("channel_scales")[:, None] + self.get_buffer("channel_biases")[:, None]


class ImagePool(nn.Module):
    """The whole grid of CLIP tokens as one vector: a few channels of each token, side by side, so that place is kept.

    Not in the official networks. At toy size attention alone does not learn to use the image; adding this to every
    point, and modulating every layer with it, does.
    """

    def __init__(self, clip: ClipSizes, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(clip.grid_feature_dim)
        self.narrow = nn.Linear(clip.grid_feature_dim, channels)
        self.mix = nn.Linear(channels * clip.grid_size**2, width)

    def forward(self, embeddings: Float[Tensor, "B D G"]) -> Float[Tensor, "B H"]:
        tokens = F.gelu(self.narrow(self.norm(embeddings.transpose(1, 2))))
        return F.gelu(self.mix(tokens.flatten(1)))


class CoarseShape(nn.Module):
    """What the image says of the shape: signed distances at cells of the unit cube, in data units and Point-E's axes.

    Not in the official networks.
    """

    def __init__(self, pooled_width: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.grid = nn.Linear(pooled_width, cells**3)

    def forward(self, pooled: Float[Tensor, "B H"]) -> Float[Tensor, "B z y x"]:
        return self.grid(pooled).unflatten(1, (self.cells,) * 3)

    @torch.no_grad()
    def surface(self, grid: Float[Tensor, "B z y x"]) -> "Discs":
        """Mid-grey discs on the surface, one for each of the cells next to it."""
        grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
        axis = (torch.arange(self.cells, device=grid.device, dtype=grid.dtype) + 0.5) / self.cells - 0.5
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        away = torch.stack(torch.gradient(grid, spacing=1 / self.cells, dim=(3, 2, 1)), dim=-1)
        steep = away.norm(dim=-1, keepdim=True)  # 1, and less in the middle between two sides
        centre = torch.stack([x, y, z], dim=-1) - grid[..., None] * away / steep.clamp(min=0.3)
        log_weight, cells = (-((grid / THICKNESS) ** 2) / 2).flatten(1).topk(min(SURFACE_CELLS, self.cells**3))
        centre, normal = (
            value.flatten(1, 3).take_along_dim(cells[..., None], 1) for value in (centre, away / steep.clamp(min=TINY))
        )
        return Discs(F.pad(2 * centre, (0, 3)), normal, log_weight)  # model units are half data units


@dataclass(frozen=True, slots=True)
class Discs:
    """A surface as flat normal densities around points."""

    centre: Float[Tensor, "B M C"]  # model units
    normal: Float[Tensor, "B M 3"]  # either way
    log_weight: Float[Tensor, "B M"]

    @classmethod
    @torch.no_grad()
    def around(cls, points: Float[Tensor, "B M C"]) -> "Discs":
        """Through each point and its nearest ones, all alike."""
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        xyz = points[..., :3]
        nearest = torch.cdist(xyz, xyz).topk(min(IN_A_DISC, points.shape[1]), largest=False).indices
        around = xyz[:, None].expand(-1, xyz.shape[1], -1, -1).take_along_dim(nearest[..., None], 2)
        around = around - around.mean(2, keepdim=True)
        spread = (around.mT @ around).nan_to_num()  # a NaN stays in its centre, and eigh does not raise
        normal = torch.linalg.eigh(spread).eigenvectors[..., 0]
        return cls(points, normal, points.new_zeros(points.shape[:2]))


class KnownSurface(nn.Module):
    """Where noisy points must come from, if a known surface were all there is: the diffusion's answer in closed form.

    Not in the official networks. Through attention a small network learns where points may lie, and hardly how far one
    is from there; what it learnt to add to this answer made clouds worse. Model units.
    """

    def __init__(self, width: int, schedule: Schedule, reach: float) -> None:
        super().__init__()
        self.schedule = schedule
        self.reach = reach  # deviation of a disc's density along it
        self.tell = nn.Linear(9, width)

    def forward(
        self, discs: Discs, x: Float[Tensor, "B C N"], t: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B N width"]]:
        """The expected clean points (colours are those of the discs near them), and what the network is told of it."""
        # Without autocast: what is left of a place in bfloat16 is no place
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            sigma = _noise_levels(self.schedule, x.device)[t].to(discs.normal)[:, None, None]
            seen = x[:, :3].to(sigma).transpose(1, 2) * (1 + sigma**2).sqrt()
            place, color = self.expect(discs, seen, sigma)
            off = (seen - place) / (sigma**2 + self.reach**2).sqrt()
            told = torch.cat([off, place, color], dim=-1)
        return torch.cat([place, color], dim=-1), self.tell(told.to(x.dtype))

    def expect(
        self, discs: Discs, seen: Float[Tensor, "B N 3"], sigma: Float[Tensor, "B 1 1"]
    ) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N D"]]:
        """Mean place, and mean colour of the discs, of points that have become `seen` by noise of deviation `sigma`.

        The posterior mean of a mixture of normal densities, each as wide as `reach` along its disc and FLAT across.
        """
        along, across = sigma**2 + self.reach**2, sigma**2 + FLAT**2
        centre = discs.centre[..., :3]
        height = seen @ discs.normal.mT - (centre * discs.normal).sum(-1)[:, None]
        square = torch.cdist(seen, centre).square() / along + height.square() * (1 / across - 1 / along)
        weight = (discs.log_weight[:, None] - square / 2).softmax(-1)
        kept, kept_across = self.reach**2 / along, FLAT**2 / across  # of what is seen
        place = (1 - kept) * (weight @ centre) + kept * seen + (kept_across - kept) * ((weight * height) @ discs.normal)
        return place, weight @ discs.centre[..., 3:]


@functools.cache
def _noise_levels(schedule: Schedule, device: torch.device) -> Float[Tensor, "T"]:
    """Sigma at each discrete time."""
    return (1 / alphas_cumprod(schedule) - 1).sqrt().to(device)


class PointCloudSdf(nn.Module):
    """Signed distance of query points to the surface that a cloud samples; x y z only, data units."""

    def __init__(self, config: SdfConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.encoder_input_proj = nn.Linear(3, width)
        self.encoder = Transformer(width, config.encoder_layers, config.encoder_heads)
        self.decoder_input_proj = nn.Linear(3, width)
        self.decoder = CrossTransformer(width, config.decoder_layers, config.decoder_heads)
        self.ln_post = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, 1)
        initialise(self, config.init_scale)

    def forward(self, queries: Float[Tensor, "B 3 Q"], *, point_clouds: Float[Tensor, "B 3 N"]) -> Float[Tensor, "B Q"]:
        data = self.encoder(self.encoder_input_proj(point_clouds.transpose(1, 2)))
        hidden = self.decoder(self.decoder_input_proj(queries.transpose(1, 2)), data)
        return self.output_proj(self.ln_post(hidden))[..., 0]


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

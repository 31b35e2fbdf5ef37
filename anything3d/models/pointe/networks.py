"""The networks of Point-E: transformers over points, with the tensor names of the official checkpoints.

Points are channel-first, [B, 6, N]: x y z (z up, front -y), then r g b. *Data units* are canonical lengths and 0..255.
*Model units* are data * channel_scales + channel_biases, about -1..1; the diffusion works on them. There is no
positional embedding, so N may be any number.

Source: Nichol et al. 2022 (arXiv 2212.08751), openai/point-e@fc8a607: layer order, sizes, initialisation.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d.models.pointe.config import ClipSizes, NetworkConfig
from anything3d.models.pointe.surface import CoarseShape, Discs, KnownSurface
from anything3d.models.pointe.transformer import Mlp, Transformer, initialise, time_embedding, waves


class PointDenoiser(nn.Module):
    """Predicts the noise (or the clean points, `config.prediction`) in a cloud, given an image and a coarser cloud.

    The tokens are those of the time, of the image (a grid of CLIP features) and of the coarse cloud, then one for each
    point. With `config.cond_ctx` the network is an upsampler and takes `low_res` in data units. Zeros in place of a
    condition mean that there is none.
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
        dim = clip.grid_feature_dim
        self.clip_embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        if config.pooled_channels:
            self.image_pool = ImagePool(clip, config.pooled_channels, config.pooled_width)
            # The norm brings the image to the scale of the points. Without it the image has no effect.
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
        embeddings: Float[Tensor, "B D G"],
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
        out = self.output_proj(hidden)
        if self.config.known_reach:  # positions are known; colours follow from positions and image
            out = torch.cat([guess[..., :3], guess[..., 3:] + out[..., 3:]], dim=2)
        return out.transpose(1, 2)

    def _condition(
        self, t: Int[Tensor, "B"], embeddings: Tensor, low_res: Tensor | None, dtype: torch.dtype
    ) -> list[Float[Tensor, "B K C"]]:
        time = self.time_embed(time_embedding(t, self.config.width).to(dtype))[:, None]
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

"""A toy-sized Stable Diffusion with a depth ControlNet for the mini world: 64 px images, 16 x 16 x 4 latents.

The folder that `save` writes has the layout of any diffusers model. So `diffusion.load_denoiser` reads both alike.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anything3d.mini.tokens import clip_vocabulary, save_clip_tokenizer

LATENT_PX = 16
CONTEXT = 16  # tokens, with the two special ones
WIDTHS = (32, 64)  # of the UNet's levels
TEXT_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Networks:
    """The four networks of the model, by their folders' names."""

    vae: nn.Module  # 0.23 M parameters
    unet: nn.Module  # 1.0 M
    controlnet: nn.Module  # 0.5 M
    text_encoder: nn.Module  # 0.1 M


def build(seed: int) -> Networks:
    """Random weights; the same seed gives the same. The ControlNet's outputs are zero, as Zhang et al. begin."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = clip_vocabulary()
    levels = {
        "in_channels": 4,
        "block_out_channels": WIDTHS,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),  # attention at 8 x 8 only; at 16 x 16 it doubles
        "layers_per_block": 1,  # the cost of a step and does not lower the loss
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks(
            vae=AutoencoderKL(
                block_out_channels=(16, 32, 32),
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                layers_per_block=1,
                latent_channels=4,
                norm_num_groups=8,
                mid_block_add_attention=False,
                sample_size=64,
                scaling_factor=1.0,
            ),
            unet=UNet2DConditionModel(
                sample_size=LATENT_PX, out_channels=4, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **levels
            ),
            controlnet=ControlNetModel(conditioning_embedding_out_channels=(8, 16, 32), **levels),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(vocabulary),
                    hidden_size=TEXT_WIDTH,
                    intermediate_size=2 * TEXT_WIDTH,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    max_position_embeddings=CONTEXT,
                    bos_token_id=vocabulary.start,
                    eos_token_id=vocabulary.end,
                    pad_token_id=vocabulary.end,
                )
            ),
        )


def save(networks: Networks, directory: Path) -> None:
    """Write the networks (float16), the tokenizer and the schedule as one diffusers folder.

    The caller's networks keep their dtype.
    """
    save_vae(networks.vae, directory, scaling_factor=1.0)
    save_denoiser(networks, directory)


def save_vae(vae: nn.Module, directory: Path, scaling_factor: float) -> None:
    """Write `vae` (float16); `scaling_factor` is what brings its latents to deviation 1."""
    kept: Any = deepcopy(vae).half()
    kept.register_to_config(scaling_factor=scaling_factor)
    kept.save_pretrained(directory / "vae", safe_serialization=True)


def save_denoiser(networks: Networks, directory: Path) -> None:
    """Write everything but the VAE."""
    from diffusers import DDPMScheduler
    from transformers import CLIPTextModel

    assert isinstance(networks.text_encoder, CLIPTextModel)
    for name in ("unet", "controlnet"):
        deepcopy(getattr(networks, name)).half().save_pretrained(directory / name, safe_serialization=True)
    halves = {name: value.half() for name, value in networks.text_encoder.state_dict().items()}
    networks.text_encoder.save_pretrained(directory / "text_encoder", state_dict=halves)
    save_clip_tokenizer(directory / "tokenizer", CONTEXT)
    DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        directory / "scheduler"
    )

"""A toy-sized TAESD: an AutoencoderTiny with the latents of the mini VAE, 64 px pictures to 16 x 16 x 4 and back."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

WIDTH = 16  # of all layers
BLOCKS = (0, 1, 2)  # at 64, 32 and 16 px; a block at 64 px would cost more than all others


def build(seed: int) -> nn.Module:
    """Random weights; the same seed gives the same. 53,000 parameters, half of them the encoder's."""
    from diffusers import AutoencoderTiny

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderTiny(
            encoder_block_out_channels=(WIDTH,) * len(BLOCKS),
            decoder_block_out_channels=(WIDTH,) * len(BLOCKS),
            num_encoder_blocks=BLOCKS,
            num_decoder_blocks=BLOCKS[::-1],
        )


def save(network: nn.Module, directory: Path) -> None:
    """Write it (float16) as one diffusers folder. The caller's network keeps its dtype."""
    kept: Any = deepcopy(network).half()
    kept.save_pretrained(directory, safe_serialization=True)

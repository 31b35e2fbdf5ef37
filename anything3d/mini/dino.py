"""A toy-sized DINOv2 (0.2 M parameters) for the mini world: 64 px images in 16 px patches.

The folder that `save` writes has the layout of any transformers DINOv2. So `dino.load_dino` reads both alike.
"""

from pathlib import Path

import torch
from torch import nn

IMAGE_PX, PATCH_PX = 64, 16
WIDTH = 64
MEAN = (0.485, 0.456, 0.406)  # of the official DINOv2
STD = (0.229, 0.224, 0.225)


def build(seed: int) -> nn.Module:
    """A `Dinov2Model` with random weights; the same seed gives the same weights."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        mlp_ratio=3,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dinov2Model(config)


def save(network: nn.Module, directory: Path) -> None:
    """Write the network (float16) and its image processor as one transformers folder.

    The caller's network keeps its dtype.
    """
    from transformers import BitImageProcessor, Dinov2Model

    assert isinstance(network, Dinov2Model)
    halves = {name: value.half() for name, value in network.state_dict().items()}
    network.save_pretrained(directory, state_dict=halves)
    BitImageProcessor(
        size={"shortest_edge": IMAGE_PX},
        crop_size={"height": IMAGE_PX, "width": IMAGE_PX},
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(directory)

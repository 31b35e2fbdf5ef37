"""A toy-sized SAM (1.1 M parameters) for the mini world: 256 px images, 32 x 32 tokens, masks of 128 x 128 logits.

The network is segment_anything's own. `sam.load_sam` reads the folder that `save` writes.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anything3d.models import sam
from anything3d.models.sam import SamShape

SHAPE = SamShape(
    image_size=256,
    patch_size=8,  # an object is many tokens wide; with 16, as in the large ones, it would be three
    width=128,
    depth=4,
    heads=4,
    window=16,
    global_blocks=(3,),
    prompt_width=96,
    decoder_heads=2,  # of 24 channels each: with 6, a point does not find its own token
    decoder_mlp=192,
    iou_hidden=96,
)
POINT_FREQUENCY = 2.0  # of the waves that tell places apart, official ones 1: a token is 1/32 of the image, not 1/64
MATCH = 1.7  # length of each row of the projections that begin alike
QUIET = 0.25  # of what is added to the encodings of places, at first: else they are not heard


def build(seed: int) -> nn.Module:
    """A `Sam` with random weights; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = sam.build(SHAPE)
        network.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(POINT_FREQUENCY)
        transformer = network.mask_decoder.transformer
        attentions = [transformer.final_attn_token_to_image]
        for layer in transformer.layers:
            attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
        for attention in attentions:
            _match_places(attention.q_proj, attention.k_proj)
        louder = [layer.norm1 for layer in transformer.layers] + [network.image_encoder.neck[-1]]
        for part in louder + list(network.prompt_encoder.point_embeddings):
            part.weight.data.mul_(QUIET)
        return network


def _match_places(queries: nn.Linear, keys: nn.Linear) -> None:
    """Let queries begin by attending to keys with the same encoding of their place: both are projected alike.

    From random projections a small decoder learns for thousands of steps to find the token that a point lies in.
    """
    alike = torch.linalg.qr(torch.randn_like(queries.weight).T).Q.T
    for projection in (queries, keys):
        projection.weight.data.copy_(MATCH * alike)
        projection.bias.data.zero_()


def save(network: nn.Module, directory: Path) -> None:
    """Write the network (float16) and its sizes; the caller's network keeps its dtype."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(asdict(SHAPE), indent=1) + "\n")
    halves = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(halves, directory / "model.safetensors")

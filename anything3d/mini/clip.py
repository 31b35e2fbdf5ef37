"""A toy-sized CLIP (0.42 M parameters) for the mini world: 64 px images in 8 px patches, 16 tokens of text.

The folder that `save` writes has the layout of any transformers CLIP. So `clip.load_clip` reads both alike.
"""

from pathlib import Path

import torch
from torch import nn

from anything3d.mini.tokens import clip_vocabulary, save_clip_tokenizer

IMAGE_PX, PATCH_PX = 64, 8
VISION_WIDTH = 128
CONTEXT = 16  # tokens, with the two special ones
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of OpenAI's CLIP, so that one image serves both
STD = (0.26862954, 0.26130258, 0.27577711)


def build(seed: int) -> nn.Module:
    """A `CLIPModel` with random weights; the same seed gives the same weights."""
    from transformers import CLIPConfig, CLIPModel

    vocabulary = clip_vocabulary()
    config = CLIPConfig(
        vision_config={
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": IMAGE_PX,
            "patch_size": PATCH_PX,
            "projection_dim": 64,
        },
        text_config={
            "vocab_size": len(vocabulary),
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "projection_dim": 64,
            "bos_token_id": vocabulary.start,
            "eos_token_id": vocabulary.end,
            "pad_token_id": vocabulary.end,
        },
        projection_dim=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)


def save(network: nn.Module, directory: Path) -> None:
    """Write the network (float16), its tokenizer and its image processor as one transformers folder.

    The caller's network keeps its dtype.
    """
    from transformers import CLIPImageProcessor, CLIPModel

    assert isinstance(network, CLIPModel)
    halves = {name: value.half() for name, value in network.state_dict().items()}
    network.save_pretrained(directory, state_dict=halves)
    save_clip_tokenizer(directory, CONTEXT)
    CLIPImageProcessor(
        size={"shortest_edge": IMAGE_PX},
        crop_size={"height": IMAGE_PX, "width": IMAGE_PX},
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(directory)

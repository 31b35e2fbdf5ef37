"""A toy-sized BLIP captioner (0.54 M parameters) for the mini world: 64 px images in 8 px patches, captions of words.

The folder that `save` writes has the layout of any transformers BLIP. So `caption.load_blip` reads both alike.
"""

from pathlib import Path

import torch
from torch import nn

from anything3d.mini.clip import MEAN, STD
from anything3d.mini.tokens import bert_vocabulary, save_bert_tokenizer

IMAGE_PX = 64
CONTEXT = 32  # tokens of a caption, with the special ones


def build(seed: int) -> nn.Module:
    """A `BlipForConditionalGeneration` with random weights; the same seed gives the same weights."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    ids = bert_vocabulary()
    config = BlipConfig(
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": IMAGE_PX,
            "patch_size": 8,
            "initializer_range": 0.02,
        },
        text_config={
            "vocab_size": len(ids),
            "hidden_size": 96,
            "encoder_hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": ids["[DEC]"],
            "eos_token_id": ids["[SEP]"],
            "sep_token_id": ids["[SEP]"],
            "pad_token_id": ids["[PAD]"],
        },
        projection_dim=64,
        image_text_hidden_size=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BlipForConditionalGeneration(config)


def save(network: nn.Module, directory: Path) -> None:
    """Write the network (float16), its tokenizer and its image processor as one transformers folder.

    The caller's network keeps its dtype.
    """
    from transformers import BlipForConditionalGeneration, BlipImageProcessor

    assert isinstance(network, BlipForConditionalGeneration)
    halves = {name: value.half() for name, value in network.state_dict().items()}
    network.save_pretrained(directory, state_dict=halves)
    save_bert_tokenizer(directory, CONTEXT)
    BlipImageProcessor(
        size={"height": IMAGE_PX, "width": IMAGE_PX}, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(directory)

"""Row 4: captions of 32 crops, BLIP of a middle size with random weights, beam search of width 3."""

from contextlib import contextmanager

import torch

from anything3d.caption import load_blip
from anything3d.mini import blip as mini
from anything3d.mini.clip import MEAN, STD
from anything3d.mini.tokens import bert_vocabulary, save_bert_tokenizer
from anything3d.models.weights import Place
from anything3d.seed import generators
from anything3d.settings.caption import CaptionConfig
from tests.bench.row import Pair, Timed

CROPS = {"full": 32, "toy": 3}
IMAGE_PX, WIDTH, LAYERS, HEADS, CONTEXT = 224, 384, 6, 6, 32  # BLIP-base has 384 px, 768, 12, 12 and 512
SCALE = 3  # of random weights: those of the usual size hardly look at the image


@contextmanager
def make(size, folder, device):
    from transformers import BertTokenizer, BlipForConditionalGeneration

    side = _write(folder) if size == "full" else _write_toy(folder)
    config = CaptionConfig(weights=str(folder))
    blip = load_blip(config, Place(device))
    network = (
        BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        .eval()
        .requires_grad_(False)
        .to(device)
    )
    tokenizer = BertTokenizer.from_pretrained(folder)
    noise = torch.rand(CROPS[size], 4, side // 16, side // 16, generator=torch.Generator().manual_seed(0))
    crops = torch.nn.functional.interpolate(noise, (side, side), mode="bilinear")
    crops[:, 3] = 1  # no background
    names = [str(index) for index in range(len(crops))]
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def ours():
        return [one.text for one in blip(crops, generators(0, "caption", names))]

    @torch.inference_mode()
    def peer():
        texts = []
        for crop in crops[:, :3]:
            ids = network.generate(
                pixel_values=((crop - mean) / std)[None].to(device),
                num_beams=config.beams,
                min_new_tokens=config.min_tokens,
                max_new_tokens=config.max_tokens + 1,
            )
            texts.append(tokenizer.decode(ids[0], skip_special_tokens=True))
        return texts

    yield Pair(ours, peer, check)


def check(ours, theirs):
    assert ours == theirs, "other captions"
    return f"the same {len(ours)} captions, of which {len(set(ours))} differ from each other"


def _write_toy(folder):
    network = mini.build(0)
    _enlarge(network)
    mini.save(network, folder)
    return mini.IMAGE_PX


def _write(folder):
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    ids = bert_vocabulary()
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH}
    shared |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    text = {"vocab_size": len(ids), "encoder_hidden_size": WIDTH, "max_position_embeddings": CONTEXT}
    text |= {"bos_token_id": ids["[DEC]"], "eos_token_id": ids["[SEP]"], "sep_token_id": ids["[SEP]"]}
    config = BlipConfig(
        vision_config={**shared, "image_size": IMAGE_PX, "patch_size": 16},
        text_config={**shared, **text, "pad_token_id": ids["[PAD]"]},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BlipForConditionalGeneration(config)
    _enlarge(network)
    network.save_pretrained(folder)
    save_bert_tokenizer(folder, CONTEXT)
    BlipImageProcessor(
        size={"height": IMAGE_PX, "width": IMAGE_PX}, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(folder)
    return IMAGE_PX


@torch.no_grad()
def _enlarge(network):
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.mul_(SCALE)


ROW = Timed("4", "captions of 32 crops in one batch", "transformers' generate, one by one", 2, make, gpu=True)

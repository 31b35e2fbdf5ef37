"""The official networks at full size: as meta tensors to compare with, or as folders of random weights to run."""

import json
from pathlib import Path

import torch

from anything3d.mini.tokens import END, START, bert_vocabulary, clip_vocabulary
from anything3d.models import pointe
from anything3d.models.pointe.config import OFFICIAL, OFFICIAL_CLIP
from anything3d.models.published import PUBLISHED

TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}


def sam(kind):
    from segment_anything import sam_model_registry

    return sam_model_registry[kind]()


def blip(**vision):
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = {"encoder_hidden_size": vision.get("hidden_size", 768)}
    return BlipForConditionalGeneration(BlipConfig(vision_config={"image_size": 384, **vision}, text_config=text))


def clip():
    from transformers import CLIPConfig, CLIPModel

    vision = {**LARGE, "patch_size": 14, "image_size": 224}
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=768))


def unet(**settings):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, **{**SD15, **settings})


def controlnet(**settings):
    from diffusers import ControlNetModel

    return ControlNetModel(**{**SD15, **settings})


def taesd():
    from diffusers import AutoencoderTiny

    return AutoencoderTiny()


def vae():
    from diffusers import AutoencoderKL

    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=down, up_block_types=up, layers_per_block=2
    )


def text_encoder(**settings):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**{**TEXT, **settings}))


NETWORKS: dict[tuple[str, str], tuple] = {  # folder, file -> its network and the number of its tensors
    ("sam-vit-b", "sam_vit_b_01ec64.pth"): (lambda: sam("vit_b"), 314),
    ("sam-vit-l", "sam_vit_l_0b3195.pth"): (lambda: sam("vit_l"), 482),
    ("sam-vit-h", "sam_vit_h_4b8939.pth"): (lambda: sam("vit_h"), 594),
    ("blip-base", "pytorch_model.bin"): (blip, 473),
    ("blip-large", "model.safetensors"): (lambda: blip(**LARGE), 617),
    ("clip-vit-l-14", "model.safetensors"): (clip, 590),
    ("taesd-sd", "diffusion_pytorch_model.safetensors"): (taesd, None),
    ("stable-diffusion-1.5", "unet/diffusion_pytorch_model.safetensors"): (unet, 686),
    ("stable-diffusion-1.5", "vae/diffusion_pytorch_model.safetensors"): (vae, 248),
    ("stable-diffusion-1.5", "text_encoder/model.safetensors"): (text_encoder, 196),
    ("stable-diffusion-1.5", "controlnet/diffusion_pytorch_model.safetensors"): (controlnet, 340),
    ("stable-diffusion-2.1-base", "unet/diffusion_pytorch_model.safetensors"): (lambda: unet(**SD21), 686),
    ("stable-diffusion-2.1-base", "vae/diffusion_pytorch_model.safetensors"): (vae, 248),
    ("stable-diffusion-2.1-base", "text_encoder/model.safetensors"): (
        lambda: text_encoder(**LARGE | {"num_hidden_layers": 23, "hidden_act": "gelu"}),  # the last layer is cut off
        372,
    ),
    ("stable-diffusion-2.1-base", "controlnet/control_v11p_sd21_depth.safetensors"): (lambda: controlnet(**SD21), 340),
    **{
        (name, file.path): (lambda path=file.path: pointe.build(OFFICIAL[path], OFFICIAL_CLIP), None)
        for name, official in PUBLISHED.items()
        for file in official.files
        if file.path in OFFICIAL
    },
}

CLIP_TOKENS, BERT_TOKENS, BERT_SPECIAL = 49408, 30522, {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def write_random(root: Path, name: str) -> None:
    """The folder `name` of `PUBLISHED` below `root`, in its owner's layout, with random weights."""
    folder = root / name
    for entry in PUBLISHED[name].files:
        if (name, entry.path) not in NETWORKS:
            continue
        network = NETWORKS[name, entry.path][0]()
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            network.to(torch.bfloat16).save_pretrained(path.parent)
        else:
            torch.save(network.state_dict(), path)
    match name.split("-")[0]:
        case "blip":
            _write_bert_tokenizer(folder)
            size = {"height": 384, "width": 384}
            _write_preprocessor(folder, "BlipImageProcessor", size=size)
        case "clip":
            _write_clip_tokenizer(folder)
            size = {"shortest_edge": 224}
            _write_preprocessor(folder, "CLIPImageProcessor", size=size, do_center_crop=True, crop_size=224)
        case "stable":
            from diffusers import PNDMScheduler

            _write_clip_tokenizer(folder / "tokenizer")
            PNDMScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
            ).save_pretrained(folder / "scheduler")


def _write_preprocessor(folder: Path, kind: str, **settings: object) -> None:
    values = {"image_processor_type": kind, "image_mean": CLIP_MEAN, "image_std": CLIP_STD, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def _write_clip_tokenizer(folder: Path) -> None:
    """The mini world's words among as many tokens as the official vocabulary has, START and END last."""
    from transformers import CLIPTokenizer

    known = clip_vocabulary()
    words = [token for token in known.ids if token not in (START, END)]
    fillers = [f"filler{index}</w>" for index in range(CLIP_TOKENS - 2 - len(words))]
    ids = {token: index for index, token in enumerate([*words, *fillers, START, END])}
    CLIPTokenizer(vocab=ids, merges=list(known.merges), model_max_length=77).save_pretrained(folder)


def _write_bert_tokenizer(folder: Path) -> None:
    from transformers import BertTokenizer

    words = iter([word for word in bert_vocabulary() if not word.startswith("[")])
    tokens = [BERT_SPECIAL.get(index) or next(words, f"filler{index}") for index in range(BERT_TOKENS)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    BertTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(folder)

"""The official networks at full size: as meta tensors to compare with, or as folders of random weights to run."""

import json
from pathlib import Path

import torch

from anything3d.mini.tokens import END, START, bert_vocabulary, clip_vocabulary
from anything3d.models import official
from anything3d.models.published import PUBLISHED

TENSORS = {  # folder, file -> the number of its tensors
    ("sam-vit-b", "sam_vit_b_01ec64.pth"): 314,
    ("sam-vit-l", "sam_vit_l_0b3195.pth"): 482,
    ("sam-vit-h", "sam_vit_h_4b8939.pth"): 594,
    ("blip-base", "pytorch_model.bin"): 473,
    ("blip-large", "model.safetensors"): 617,
    ("clip-vit-l-14", "model.safetensors"): 590,
    ("dinov2-base", "model.safetensors"): 223,
    ("stable-diffusion-1.5", "unet/diffusion_pytorch_model.safetensors"): 686,
    ("stable-diffusion-1.5", "vae/diffusion_pytorch_model.safetensors"): 248,
    ("stable-diffusion-1.5", "text_encoder/model.safetensors"): 196,
    ("stable-diffusion-1.5", "controlnet/diffusion_pytorch_model.safetensors"): 340,
    ("stable-diffusion-2.1-base", "unet/diffusion_pytorch_model.safetensors"): 686,
    ("stable-diffusion-2.1-base", "vae/diffusion_pytorch_model.safetensors"): 248,
    ("stable-diffusion-2.1-base", "text_encoder/model.safetensors"): 372,
    ("stable-diffusion-2.1-base", "controlnet/control_v11p_sd21_depth.safetensors"): 340,
    ("shap-e-img2img", "prior/diffusion_pytorch_model.fp16.safetensors"): 403,
    ("shap-e-img2img", "image_encoder/model.fp16.safetensors"): 391,  # its file has the numbers of the positions, too
}
sam, blip, clip, taesd = official.sam, official.blip, official.clip, official.taesd
unet, controlnet, vae, text_encoder = official.unet, official.controlnet, official.vae, official.text_encoder
NETWORKS = {key: (build, TENSORS.get(key)) for key, build in official.NETWORKS.items()}

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
        case "sam2.1":
            from transformers import Sam2ImageProcessor

            Sam2ImageProcessor().save_pretrained(folder)
        case "blip":
            _write_bert_tokenizer(folder)
            size = {"height": 384, "width": 384}
            _write_preprocessor(folder, "BlipImageProcessor", size=size)
        case "clip":
            _write_clip_tokenizer(folder)
            size = {"shortest_edge": 224}
            _write_preprocessor(folder, "CLIPImageProcessor", size=size, do_center_crop=True, crop_size=224)
        case "dinov2":
            size = {"shortest_edge": 256}
            _write_preprocessor(folder, "BitImageProcessor", size=size, do_center_crop=True, crop_size=224)
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

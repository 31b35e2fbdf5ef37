"""The official networks at full size, built without a file: as meta tensors, or as tensors that only have a shape.

The sizes are those of the configurations that their owners publish beside the weights (`published.py` says where).
`tests/anything3d/models/test_published.py` compares them with the official numbers of tensors and sizes of files.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from anything3d.models.pointe.config import OFFICIAL, OFFICIAL_CLIP
from anything3d.models.pointe.loading import build
from anything3d.models.published import PUBLISHED

TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}


SAM2: Mapping[str, dict[str, Any]] = {  # folder -> settings of its encoder that are not the smallest one's
    "sam2.1-hiera-tiny": {},
    "sam2.1-hiera-small": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "sam2.1-hiera-base-plus": {
        "hidden_size": 112,
        "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "blocks_per_stage": [2, 3, 16, 3],
        "global_attention_blocks": [12, 16, 20],
        "window_positional_embedding_background_size": [14, 14],
    },
    "sam2.1-hiera-large": {
        "hidden_size": 144,
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43],
        "window_size_per_stage": [8, 4, 16, 8],
    },
}


def sam(kind: str) -> nn.Module:
    """SAM "vit_b", "vit_l" or "vit_h"."""
    from segment_anything import sam_model_registry

    return sam_model_registry[kind]()


def sam2(name: str, *, with_memory: bool) -> nn.Module:
    """A SAM 2 of `SAM2`: what its file holds, or without the memory for videos, what is made of it."""
    from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
    from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig

    encoder = Sam2HieraDetConfig(**SAM2[name])
    vision = Sam2VisionConfig(backbone_config=encoder, backbone_channel_list=encoder.embed_dim_per_stage[::-1])
    if with_memory:
        return Sam2VideoModel(Sam2VideoConfig(vision_config=vision))
    return Sam2Model(Sam2Config(vision_config=vision))


def blip(**vision: int) -> nn.Module:
    """BLIP for captions; without a size of the image tower, the base network."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = {"encoder_hidden_size": vision.get("hidden_size", 768)}
    return BlipForConditionalGeneration(BlipConfig(vision_config={"image_size": 384, **vision}, text_config=text))


def clip() -> nn.Module:
    """CLIP ViT-L/14."""
    from transformers import CLIPConfig, CLIPModel

    vision = {**LARGE, "patch_size": 14, "image_size": 224}
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=768))


def dino() -> nn.Module:
    """DINOv2 ViT-B/14."""
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(image_size=518, patch_size=14))


def unet(**settings: object) -> nn.Module:
    """The UNet of Stable Diffusion 1.5, or of what the settings say."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, **{**SD15, **settings})


def controlnet(**settings: object) -> nn.Module:
    """A ControlNet of Stable Diffusion 1.5, or of what the settings say."""
    from diffusers import ControlNetModel

    return ControlNetModel(**{**SD15, **settings})


def taesd() -> nn.Module:
    """The small autoencoder with the latents of Stable Diffusion 1 and 2."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny()


def vae() -> nn.Module:
    """The VAE of Stable Diffusion 1 and 2."""
    from diffusers import AutoencoderKL

    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=down, up_block_types=up, layers_per_block=2
    )


def text_encoder(**settings: object) -> nn.Module:
    """The text encoder of Stable Diffusion 1.5, or of what the settings say."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**{**TEXT, **settings}))


def shap_e_prior() -> nn.Module:
    """What samples latents of Shap-E for the features of an image."""
    from diffusers import PriorTransformer

    return PriorTransformer(
        num_attention_heads=8,
        attention_head_dim=128,
        num_layers=24,
        embedding_dim=1024,
        num_embeddings=1024,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        embedding_proj_norm_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
        time_embed_dim=4096,
        embedding_proj_dim=1024,
        clip_embed_dim=2048,
    )


def shap_e_encoder() -> nn.Module:
    """The image tower of CLIP ViT-L/14."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**LARGE, patch_size=14, image_size=224))


def shap_e_renderer() -> nn.Module:
    """What makes fields of latents of Shap-E."""
    from diffusers.pipelines.shap_e import ShapERenderer

    return ShapERenderer()


TEXT_SD21 = LARGE | {"num_hidden_layers": 23, "hidden_act": "gelu"}  # the last layer is cut off
NETWORKS: Mapping[tuple[str, str], Callable[[], nn.Module]] = {  # folder, file -> its network
    ("sam-vit-b", "sam_vit_b_01ec64.pth"): lambda: sam("vit_b"),
    ("sam-vit-l", "sam_vit_l_0b3195.pth"): lambda: sam("vit_l"),
    ("sam-vit-h", "sam_vit_h_4b8939.pth"): lambda: sam("vit_h"),
    **{(name, "model.safetensors"): partial(sam2, name, with_memory=True) for name in SAM2},
    ("blip-base", "pytorch_model.bin"): blip,
    ("blip-large", "model.safetensors"): lambda: blip(**LARGE),
    ("clip-vit-l-14", "model.safetensors"): clip,
    ("dinov2-base", "model.safetensors"): dino,
    ("taesd-sd", "diffusion_pytorch_model.safetensors"): taesd,
    ("stable-diffusion-1.5", "unet/diffusion_pytorch_model.safetensors"): unet,
    ("stable-diffusion-1.5", "vae/diffusion_pytorch_model.safetensors"): vae,
    ("stable-diffusion-1.5", "text_encoder/model.safetensors"): text_encoder,
    ("stable-diffusion-1.5", "controlnet/diffusion_pytorch_model.safetensors"): controlnet,
    ("stable-diffusion-2.1-base", "unet/diffusion_pytorch_model.safetensors"): lambda: unet(**SD21),
    ("stable-diffusion-2.1-base", "vae/diffusion_pytorch_model.safetensors"): vae,
    ("stable-diffusion-2.1-base", "text_encoder/model.safetensors"): lambda: text_encoder(**TEXT_SD21),
    ("stable-diffusion-2.1-base", "controlnet/control_v11p_sd21_depth.safetensors"): lambda: controlnet(**SD21),
    ("shap-e-img2img", "prior/diffusion_pytorch_model.fp16.safetensors"): shap_e_prior,
    ("shap-e-img2img", "image_encoder/model.fp16.safetensors"): shap_e_encoder,
    ("shap-e-img2img", "shap_e_renderer/diffusion_pytorch_model.bin"): shap_e_renderer,
    **{
        (name, file.path): partial(build, OFFICIAL[file.path], OFFICIAL_CLIP)
        for name, official in PUBLISHED.items()
        for file in official.files
        if file.path in OFFICIAL
    },
}


def shaped(name: str, part: str, device: str, dtype: torch.dtype, *lowered: str) -> Any:  # noqa: ANN401
    """The frozen network of the weights `name`, without values, for a FakeTensorMode that is on.

    `part` is the beginning of its file: "unet", or "" where the folder has one network. Numbers of modules whose names
    begin with one of `lowered` (all, if there is none) have the `dtype`, all others are float32 or whole. Of SAM 2, the
    memory for videos is left out.

    Raises: KeyError if no such network is known.
    """
    (make,) = [make for (folder, path), make in NETWORKS.items() if folder == name and path.startswith(part)]
    if name in SAM2:
        make = partial(sam2, name, with_memory=False)
    with torch.device("meta"):
        network = make().requires_grad_(False).eval()
    for path, module in network.named_modules():
        for kind in (module._parameters, module._buffers):
            for key, value in kind.items():
                if value is not None:
                    own = dtype if value.is_floating_point() and path.startswith(lowered or "") else value.dtype
                    kept = torch.empty(value.shape, dtype=own, device=device)
                    kind[key] = nn.Parameter(kept, requires_grad=False) if kind is module._parameters else kept
    return network

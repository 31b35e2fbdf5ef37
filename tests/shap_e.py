"""Shap-E in its real architecture at toy size: folders of random weights, and a field whose numbers are set by hand."""

from pathlib import Path

import torch
from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEImg2ImgPipeline
from diffusers.pipelines.shap_e import ShapERenderer
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

SIDE = 32  # pixels that the image encoder sees
WIDTH = 32  # of a latent
HIDDEN = 8  # of the field's network
LAYERS = ((HIDDEN, 93), *[(HIDDEN, HIDDEN)] * 3)  # those of it whose weights come from the latents


def build(seed: int = 0) -> ShapEImg2ImgPipeline:
    """diffusers' pipeline with random networks; the settings are the official ones but for the sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=SIDE,
                patch_size=8,
            )
        )
        prior = PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            embedding_dim=WIDTH,
            num_embeddings=4 * HIDDEN,
            additional_embeddings=0,
            time_embed_act_fn="gelu",
            norm_in_type="layer",
            embedding_proj_norm_type="layer",
            encoder_hid_proj_type=None,
            added_emb_type=None,
            time_embed_dim=64,
            embedding_proj_dim=24,
            clip_embed_dim=2 * WIDTH,
        )
        renderer = ShapERenderer(param_shapes=LAYERS, d_latent=WIDTH, d_hidden=HIDDEN)
    scheduler = HeunDiscreteScheduler(
        beta_schedule="exp",
        num_train_timesteps=1024,
        prediction_type="sample",
        use_karras_sigmas=True,
        clip_sample=True,
    )
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return ShapEImg2ImgPipeline(prior.eval(), encoder.eval(), processor, scheduler, renderer.eval())


def write(folder: Path, seed: int = 0) -> Path:
    """A folder as `build` makes it."""
    build(seed).save_pretrained(folder)
    return folder


def set_field(renderer: ShapERenderer, distance: tuple[float, ...]) -> None:
    """The field of any latents: tanh(x a + y b + z c + d) for (a, b, c, d), and sigmoid(x, y, z) as its colours.

    silu(u) - silu(-u) is u. So six hidden numbers pass x, y and z on from layer to layer. The weights that come from
    latents are the biases of their projections, as the projections themselves are 0.
    """
    signs = torch.zeros(HIDDEN, 3)
    signs[:6] = torch.stack([torch.eye(3), -torch.eye(3)], dim=1).flatten(
        0, 1
    )  # +x, +y ... in pairs with their negatives
    passed_on = torch.zeros(HIDDEN, HIDDEN)
    passed_on[:6, :6] = signs[:6] @ signs[:6].T
    first = torch.zeros(HIDDEN, 93)
    first[:, :3] = signs
    layers = [layer for layer in renderer.mlp.mlp]
    with torch.no_grad():
        for projection, weight in zip(
            renderer.params_proj.projections.values(), [first, *[passed_on] * 3], strict=True
        ):
            projection.proj.weight.zero_()
            projection.norm.bias.zero_()
            projection.proj.bias.copy_(weight.flatten())
        for layer in layers:
            layer.bias.zero_()
        for layer in layers[4:6]:
            layer.weight.zero_()
            layer.weight[:, :HIDDEN] = passed_on
        layers[6].weight.zero_()
        layers[6].weight[0, :] = signs @ torch.tensor(distance[:3])
        layers[6].bias[0] = distance[3]
        layers[6].weight[3:6, :] = signs.T

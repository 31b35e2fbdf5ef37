"""Shap-E for images: latents, which diffusers' pipeline samples, and the fields that they stand for.

Weights are a folder of diffusers' `ShapEImg2ImgPipeline`. The prior and the image encoder have the dtype of the Place.
The sampler between the calls of the prior has float32, and so has the renderer: its positions are encoded with
frequencies up to 2^14, and 16 bits cannot tell two neighbouring nodes of its grid apart there. The authors do the same.

Source: Jun and Nichol 2023, and openai/shap-e.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from anything3d import seed
from anything3d.errors import WeightsError
from anything3d.models.finite import infinite_as_nan
from anything3d.models.layout import check_shap_e
from anything3d.models.pretrained import Preprocessor, load_network, load_preprocessor, load_settings
from anything3d.models.weights import Place, directory

POINTS = 1 << 15  # of a field that are looked up at once


@dataclass(frozen=True, slots=True)
class ShapE:
    """A frozen Shap-E that sees images."""

    pipeline: Any  # diffusers' ShapEImg2ImgPipeline
    preprocess: Preprocessor
    device: torch.device
    dtype: torch.dtype  # of the networks that are sampled with

    def sample(
        self, rgb: Float[Tensor, "B 3 H W"], generators: Sequence[torch.Generator], steps: int, guidance: float
    ) -> Float[Tensor, "B N D"]:
        """The latents of the objects in squares with values in [0, 1]; row b draws from its own generator.

        What the network says that is not finite makes latents that are not.
        """
        scheduler, sizes = self.pipeline.scheduler, self.pipeline.prior.config
        noise = seed.randn((sizes.num_embeddings * sizes.embedding_dim,), generators, self.device)
        scheduler.set_timesteps(steps)
        sampled = self.pipeline(
            image=self.preprocess(rgb.to(self.device, torch.float32)),  # of a list of pictures it reads the first one
            latents=noise * scheduler.init_noise_sigma,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        )
        return sampled.images

    @torch.no_grad()
    def look_up(
        self, latents: Float[Tensor, "N D"], points: Float[Tensor, "P 3"]
    ) -> tuple[Float[Tensor, "P"], Float[Tensor, "P 3"]]:
        """The signed distance of one object (1 to -1, positive inside), and its colours (sRGB), at points of its cube.

        The cube goes from -1 to 1. z points up, and the front looks towards -y. The latents become weights of a small
        network; they are handed to it for this call, so that it keeps nothing of the object.
        """
        renderer = self.pipeline.shap_e_renderer
        projected = renderer.params_proj(latents[None]).items()
        weights = {name.removeprefix("nerstf."): value[0] for name, value in projected}
        how = {"direction": None, "ts": None, "nerf_level": "fine", "rendering_mode": "stf"}
        seen = [
            functional_call(renderer.mlp, weights, kwargs={"position": few[None], **how})
            for few in points.to(self.device).split(POINTS)
        ]
        return torch.cat([one.signed_distance[0, :, 0] for one in seen]), torch.cat([one.channels[0] for one in seen])


def load_shap_e(name: str, place: Place) -> ShapE:
    """The Shap-E of a diffusers folder: prior, image_encoder, image_processor, scheduler and shap_e_renderer.

    Raises: WeightsError if a part is missing, damaged, of another family, or does not fit the others.
    """
    from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEImg2ImgPipeline
    from diffusers.pipelines.shap_e import ShapERenderer
    from transformers import CLIPVisionModel

    folder = directory(name, place)
    check_shap_e(folder)
    precise = replace(place, dtype="float32")
    prior = load_network(PriorTransformer.from_pretrained, folder / "prior", place, "diffusers")
    encoder = load_network(CLIPVisionModel.from_pretrained, folder / "image_encoder", place)
    renderer = load_network(ShapERenderer.from_pretrained, folder / "shap_e_renderer", precise, "diffusers")
    scheduler = load_settings(HeunDiscreteScheduler.from_pretrained, folder / "scheduler")
    preprocess = load_preprocessor(folder / "image_processor")
    sizes, width = prior.config, renderer.config.d_latent
    needed = {
        "crop_size": (encoder.config.image_size, preprocess.crop_px),
        "embedding_proj_dim": (encoder.config.hidden_size, sizes.embedding_proj_dim),
        "embedding_dim": (width, sizes.embedding_dim),
        "clip_embed_dim": (2 * width, sizes.clip_embed_dim),
        "num_embeddings": (sum(rows for rows, _ in renderer.config.param_shapes), sizes.num_embeddings),
    }
    if wrong := [f"{key} is {stated}, not {wanted}" for key, (wanted, stated) in needed.items() if stated != wanted]:
        raise WeightsError(
            "weights_mismatch",
            f"{folder}: {'; '.join(wrong)}, as the other parts need it; take all parts from one model",
        )
    # What lies between two calls of the prior is float32, whatever its dtype
    prior.register_forward_pre_hook(lambda _, given: tuple(value.to(prior.dtype) for value in given))
    prior.register_forward_hook(lambda _, __, said: type(said)(infinite_as_nan(said.predicted_image_embedding.float())))
    pipeline = ShapEImg2ImgPipeline(prior, encoder, None, scheduler, renderer)
    pipeline.set_progress_bar_config(disable=True)
    return ShapE(pipeline, preprocess, torch.device(place.device), getattr(torch, place.dtype))

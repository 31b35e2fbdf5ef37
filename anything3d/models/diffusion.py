"""The Denoiser: a latent diffusion model with a depth ControlNet.

Noise convention: x_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps, t in 0..T-1; z are latents as the model was
trained on them (the VAE's mean times its scaling factor). Text is what the cross-attention reads.
Sources: Rombach et al. 2022 (latent diffusion); Zhang et al. 2023 (ControlNet).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d import seed
from anything3d.errors import WeightsError
from anything3d.models.adapter import TEXT, UNET, Adapter, adapted
from anything3d.models.concept import Concept
from anything3d.models.finite import infinite_as_nan
from anything3d.models.layout import check_diffusion, check_fit
from anything3d.models.pretrained import Network, at, check_tokenizer, load_network, load_settings
from anything3d.models.tensors import read_tensors
from anything3d.models.weights import Place, directly_in, directory

SOUND_TIMESTEPS = 8  # at which `is_sound` asks


@dataclass(frozen=True, slots=True)
class Denoiser:
    """A frozen latent diffusion model: pixels to latents, prompts to text, noisy latents to predicted noise."""

    unet: nn.Module
    controlnet: nn.Module | None  # None: hints are refused
    encode: Callable[[Tensor], Tensor]  # the VAE: pixels in [-1, 1] to scaled latents
    decode: Callable[[Tensor], Tensor]  # and back
    text_encoder: nn.Module
    table: nn.Embedding  # of the text encoder: a row for each token
    tokenize: Callable[[list[str]], Int[Tensor, "B L"]]
    alphas_cumprod: Float[Tensor, "T"]
    latent_channels: int
    latent_scale: int  # pixels per latent, along one side
    image_size: int  # pixels along one side
    start_token: int
    end_token: int
    predicts_velocity: bool  # v instead of eps; Salimans and Ho 2022
    device: torch.device
    dtype: torch.dtype

    def halved(self) -> "Denoiser":
        """The same networks on pictures of half the size. They are convolutions, so that any size will do.

        Raises: WeightsError if half of the latents along one side is no whole number.
        """
        latents = self.image_size // self.latent_scale
        if latents % 2:
            raise WeightsError(
                "weights_unsupported",
                f"the denoiser has {latents} latents along one side, which must be even for "
                "reconstruct.sds.denoiser_coarse_until; set that to 0",
            )
        return replace(self, image_size=self.image_size // 2)

    def encode_image(self, rgb: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of squares with values in [0, 1], resized to `image_size` where they differ. Differentiable.

        The mean of the VAE's posterior is taken, not a sample: an object's latents do not depend on anything else.
        """
        if rgb.shape[-1] != self.image_size:
            rgb = F.interpolate(rgb, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return self.encode((rgb * 2 - 1).to(self.dtype))

    def decode_latents(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1]. Differentiable where it does not clip."""
        return (infinite_as_nan(self.decode(latents.to(self.dtype))) / 2 + 0.5).clamp(0, 1)

    def adapt(self, rank: int, generators: Sequence[torch.Generator]) -> Adapter:
        """An adapter for each object, to be trained; no change yet."""
        return Adapter.begin({UNET: self.unet, TEXT: self.text_encoder}, rank, generators)

    @torch.no_grad()
    def embed_prompts(self, prompts: list[str]) -> Concept:
        """EMBEDDING(T): the prompts' tokens and their rows of the text encoder's table."""
        tokens = self.tokenize(prompts).to(self.device)
        return Concept(tokens, self.table(tokens))

    def encode_text(self, prompts: Concept | list[str], prefix: str = "") -> Float[Tensor, "B L D"]:
        """What the cross-attention reads, for concepts or plain prompts, with `prefix` put in front of each.

        Differentiable with respect to a concept's embeddings and adapter. What no longer fits is cut off at the end of
        the words.
        """
        concept = prompts if isinstance(prompts, Concept) else self.embed_prompts(prompts)
        concept = self._prepend(prefix, concept.to(self.device)) if prefix else concept.to(self.device)
        embeddings = concept.embeddings.to(self.dtype)
        handle = self.table.register_forward_hook(lambda module, inputs, output: embeddings)
        try:
            with adapted(self.text_encoder, TEXT, concept.adapter):
                return self.text_encoder(input_ids=concept.tokens).last_hidden_state
        finally:
            handle.remove()

    def add_noise(
        self, latents: Float[Tensor, "B C h w"], noise: Float[Tensor, "B C h w"], t: Int[Tensor, "B"]
    ) -> Float[Tensor, "B C h w"]:
        """x_t of clean latents."""
        alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise

    def predict_noise(
        self,
        noisy: Float[Tensor, "B C h w"],
        t: Int[Tensor, "B"],
        text: Float[Tensor, "B L D"],
        hint: Float[Tensor, "B 3 H W"] | None = None,
        hint_scale: float = 1.0,
        adapter: Adapter | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """The noise that the network sees in `noisy`, float32.

        `hint` is a depth hint in [0, 1] (`depth_hint`); None leaves the ControlNet out, which no `adapter` concerns.
        """
        noisy, text = noisy.to(self.dtype), text.to(self.dtype)
        down, middle = None, None
        if hint is not None:
            if self.controlnet is None:
                raise WeightsError(
                    "no_controlnet", "a depth hint was given, but these weights have no controlnet/ folder"
                )
            if hint.shape[-1] != self.image_size:
                hint = F.interpolate(hint, (self.image_size, self.image_size), mode="bilinear")
            down, middle = self.controlnet(
                noisy, t, encoder_hidden_states=text, controlnet_cond=hint.to(self.dtype),
                conditioning_scale=hint_scale, return_dict=False,
            )  # fmt: skip
        with adapted(self.unet, UNET, adapter):
            predicted = self.unet(
                noisy, t, encoder_hidden_states=text, down_block_additional_residuals=down,
                mid_block_additional_residual=middle, return_dict=False,
            )[0]  # fmt: skip
        if not self.predicts_velocity:
            return predicted.float()
        alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * predicted.float() + (1 - alpha_bar).sqrt() * noisy.float()

    def guided_noise(
        self,
        noisy: Float[Tensor, "B C h w"],
        t: Int[Tensor, "B"],
        texts: tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"]],
        hint: Float[Tensor, "B 3 H W"] | None,
        cfg_scale: float,
        hint_scale: float = 1.0,
        adapter: Adapter | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """Classifier-free guidance, eps_u + s (eps_c - eps_u), both halves in one call, with hint and adapter in both.

        `texts` is (prompt, no prompt). Source: Ho and Salimans 2021; the hint in both halves as in 3DFuse's cldm.
        """
        text, no_text = texts
        unguided, guided = self.predict_noise(
            torch.cat([noisy, noisy]),
            torch.cat([t, t]),
            torch.cat([no_text, text]),
            None if hint is None else torch.cat([hint, hint]),
            hint_scale,
            adapter and adapter.each(lambda factor: torch.cat([factor, factor])),
        ).chunk(2)
        return unguided + cfg_scale * (guided - unguided)

    @torch.no_grad()
    def is_sound(self, hint: bool) -> bool:
        """Whether what it says of plain white, without a prompt, is finite, from the first timestep to the last."""
        white = torch.ones(1, 3, self.image_size, self.image_size, device=self.device)
        latents, text = self.encode_image(white).float(), self.encode_text([""])
        noise = seed.randn(latents.shape[1:], [torch.Generator().manual_seed(0)], self.device)
        for t in torch.linspace(0, len(self.alphas_cumprod) - 1, SOUND_TIMESTEPS).long().to(self.device):
            noisy = self.add_noise(latents, noise, t[None])
            if not self.predict_noise(noisy, t[None], text, white if hint else None).isfinite().all():
                return False
        return True

    def _prepend(self, prefix: str, concept: Concept) -> Concept:
        """The concept's prompts behind the words of `prefix`."""
        row = self.tokenize([prefix])[0].to(self.device)
        words = row[1 : (row == self.end_token).int().argmax()]  # padding may be any token, in SD 2 it is a word
        length = concept.tokens.shape[1]
        added = words.expand(len(concept), -1)
        parts = [concept.tokens[:, :1], added, concept.tokens[:, 1:]]
        tokens = torch.cat(parts, 1)[:, :length]
        rows = concept.embeddings
        embeddings = torch.cat([rows[:, :1], self.table(added).to(rows.dtype), rows[:, 1:]], 1)[:, :length]
        cut = ~(tokens == self.end_token).any(1)  # the end went over the edge: the last word makes room for it
        last = torch.arange(length, device=self.device) == length - 1
        tokens = torch.where(cut[:, None] & last, self.end_token, tokens)
        end = self.table(torch.tensor(self.end_token, device=self.device)).to(rows.dtype)
        embeddings = torch.where((cut[:, None] & last)[..., None], end, embeddings)
        return Concept(tokens, embeddings, concept.adapter)


def load_denoiser(name: str, place: Place) -> Denoiser:
    """The model of a diffusers folder: unet, vae, text_encoder, tokenizer, scheduler, and controlnet if there is one.

    controlnet/ without a config.json holds a .safetensors, .ckpt or .pth as the ControlNet's own code writes it, alone
    or inside a whole model; `3DFuse_sparse_depth_injector.ckpt` is one.

    Raises: WeightsError if a part is missing, damaged, does not fit the others, is of another family of models, or
    predicts something else than eps or v.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = directory(name, place)
    check_diffusion(folder)
    unet = load_network(UNet2DConditionModel.from_pretrained, folder / "unet", place, "diffusers")
    vae = load_network(AutoencoderKL.from_pretrained, folder / "vae", place, "diffusers")
    controlnet = _load_controlnet(folder / "controlnet", unet, place) if (folder / "controlnet").is_dir() else None
    text_encoder = load_network(CLIPTextModel.from_pretrained, folder / "text_encoder", place)
    tokenizer = load_settings(CLIPTokenizer.from_pretrained, folder / "tokenizer")
    check_tokenizer(len(tokenizer), text_encoder.config.vocab_size, folder / "tokenizer")
    scheduler = load_settings(DDPMScheduler.from_pretrained, folder / "scheduler")
    networks = [unet.config] if controlnet is None else [unet.config, controlnet.config]
    latent_scale = 2 ** (len(vae.config.block_out_channels) - 1)
    check_fit(networks, vae.config.latent_channels, latent_scale, text_encoder.config.hidden_size, folder)
    context = text_encoder.config.max_position_embeddings

    def tokenize(prompts: list[str]) -> Int[Tensor, "B L"]:
        tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=context, return_tensors="pt")
        return tokens["input_ids"]

    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    return assemble(unet, controlnet, vae, text_encoder, tokenize, ends, scheduler, place)


def assemble(
    unet: Any,  # noqa: ANN401 - transformers and diffusers come without types
    controlnet: Any,  # noqa: ANN401
    vae: Any,  # noqa: ANN401
    text_encoder: Any,  # noqa: ANN401
    tokenize: Callable[[list[str]], Int[Tensor, "B L"]],
    ends: tuple[int, int],
    scheduler: Any,  # noqa: ANN401
    place: Place,
) -> Denoiser:
    """The Denoiser of networks that are at `place`. `ends` are the tokens at the start and the end of a prompt."""
    latent_scale, scaling = 2 ** (len(vae.config.block_out_channels) - 1), vae.config.scaling_factor
    return Denoiser(
        unet=unet,
        controlnet=controlnet,
        encode=lambda pixels: vae.encode(pixels).latent_dist.mean * scaling,
        decode=lambda latents: vae.decode(latents / scaling).sample,
        text_encoder=text_encoder,
        table=text_encoder.get_input_embeddings(),
        tokenize=tokenize,
        alphas_cumprod=scheduler.alphas_cumprod.float().to(place.device),
        latent_channels=unet.config.in_channels,
        latent_scale=latent_scale,
        image_size=unet.config.sample_size * latent_scale,
        start_token=ends[0],
        end_token=ends[1],
        predicts_velocity=scheduler.config.prediction_type == "v_prediction",
        device=torch.device(place.device),
        dtype=getattr(torch, place.dtype),
    )


def _load_controlnet(folder: Path, unet: Network, place: Place) -> nn.Module:
    from diffusers import ControlNetModel
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    files = directly_in(folder, ".safetensors", ".ckpt", ".pth")
    if (folder / "config.json").exists():
        return load_network(ControlNetModel.from_pretrained, folder, place, "diffusers")
    if len(files) != 1:
        raise WeightsError(
            "weights_mismatch",
            f"{folder} has {len(files)} ControlNets and no config.json; leave one (.safetensors, .ckpt, .pth)",
        )
    stored = read_tensors(files[0])
    with torch.device("meta"):
        network = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    try:
        tensors = convert_controlnet_checkpoint(stored, network.config)
        sound = {name: value.to(getattr(torch, place.dtype)) for name, value in tensors.items() if value is not None}
        network.load_state_dict(sound, assign=True)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise WeightsError("weights_mismatch", f"{files[0]} is no ControlNet of {folder.parent}: {error}") from error
    return at(place, network)

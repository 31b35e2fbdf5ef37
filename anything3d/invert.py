"""Textual inversion: the prompt embedding under which the frozen denoiser best explains a crop.

e* = argmin_e E_{t, eps} || eps_phi(x_t, t, e) - eps ||^2 with x_t as in diffusion.py, beginning at e_0 = EMBEDDING(T).
Source: Gal et al. 2022, equation 2, as Anything-3D uses it; every word of the caption is free, not one placeholder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.diffusion import Concept, Denoiser, load_denoiser
from anything3d.errors import ConfigError, NumericsError
from anything3d.image import over
from anything3d.weights import Place

WHITE = 1.0


@dataclass(frozen=True, slots=True)
class InvertConfig:
    """How long and how fast the embedding moves."""

    weights: str = "diffusion"
    steps: int = 60  # Adam; 125 updates in the authors' code
    lr: float = 0.02  # Adam; the authors' 2e-3 is for embeddings of norm 0.4
    samples: int = 4  # noises per object and step
    t_min: float = 0.1  # of T
    t_max: float = 1.0  # of T
    held_out: int = 16  # noises per object on which the loss is stated, never fitted

    def __post_init__(self) -> None:
        if self.steps < 0 or self.samples < 1 or self.held_out < 1 or not 0 <= self.t_min < self.t_max <= 1:
            raise ConfigError(
                "invert_config",
                f"{self}: need steps >= 0, samples >= 1, held_out >= 1 and 0 <= t_min < t_max <= 1",
            )


@dataclass(frozen=True, slots=True)
class Inverted:
    """One object's e* (B = 1); the denoising loss of its caption and of e*, on noise that the fit never saw."""

    concept: Concept
    loss_before: float
    loss_after: float
    steps: int


@dataclass(frozen=True, slots=True)
class Noises:
    """K noises of each of B objects, and their timesteps."""

    eps: Float[Tensor, "B K C h w"]
    t: Int[Tensor, "B K"]


@dataclass(frozen=True, slots=True)
class Inverter:
    denoiser: Denoiser
    config: InvertConfig

    def __call__(
        self, crops: Float[Tensor, "B 4 S S"], captions: list[str], generators: Sequence[torch.Generator]
    ) -> list[Inverted | NumericsError]:
        """e* of each crop (RGBA in [0, 1], over white), beginning at its caption; all objects are fitted at once.

        The last embedding is kept, whatever its held-out loss; both losses are stated. An embedding or loss that is not
        finite is NumericsError("inversion_diverged") for its object only. Each object has Adam moments, noises and a
        loss of its own, so the result does not depend on what else is in the batch.
        """
        denoiser, config = self.denoiser, self.config
        with torch.no_grad():
            latents = denoiser.encode_image(over(crops.to(denoiser.device), WHITE)).float()
            start = denoiser.embed_prompts(captions)
        held_out = self._draw(latents, generators, config.held_out)
        words = self._words(start)

        embeddings = start.embeddings.float().clone().requires_grad_()
        optimizer = torch.optim.Adam([embeddings], lr=config.lr)
        for _ in range(config.steps):
            losses = self._losses(
                latents, Concept(start.tokens, embeddings), self._draw(latents, generators, config.samples)
            )
            (gradient,) = torch.autograd.grad(losses.sum(), embeddings)
            embeddings.grad = gradient * words[..., None]
            optimizer.step()

        found = Concept(start.tokens, embeddings.detach())
        with torch.no_grad():
            before = self._losses(latents, start, held_out).tolist()
            after = self._losses(latents, found, held_out).tolist()
        finite = found.embeddings.isfinite().flatten(1).all(1).tolist()
        return [
            Inverted(Concept(found.tokens[b : b + 1], found.embeddings[b : b + 1]), before[b], after[b], config.steps)
            if finite[b] and math.isfinite(before[b]) and math.isfinite(after[b])
            else NumericsError("inversion_diverged", f"loss {before[b]:.4g} -> {after[b]:.4g}; lower invert.lr")
            for b in range(len(crops))
        ]

    def _draw(self, latents: Float[Tensor, "B C h w"], generators: Sequence[torch.Generator], count: int) -> Noises:
        config, n_steps = self.config, len(self.denoiser.alphas_cumprod)
        eps = seed.randn((count, *latents.shape[1:]), generators, latents.device)
        where = config.t_min + (config.t_max - config.t_min) * seed.rand((count,), generators, latents.device)
        return Noises(eps, (where * n_steps).long().clamp(max=n_steps - 1))

    def _losses(self, latents: Float[Tensor, "B C h w"], concept: Concept, noises: Noises) -> Float[Tensor, "B"]:
        """Mean squared error of the predicted noise, per object."""
        count = noises.t.shape[1]
        text = self.denoiser.encode_text(concept).repeat_interleave(count, 0)
        eps, t = noises.eps.flatten(0, 1), noises.t.flatten()
        noisy = self.denoiser.add_noise(latents.repeat_interleave(count, 0), eps, t)
        predicted = self.denoiser.predict_noise(noisy, t, text)
        return (predicted - eps).square().view(len(latents), -1).mean(1)

    def _words(self, concept: Concept) -> Bool[Tensor, "B L"]:
        """Which tokens are words: all but the start, the end and the padding behind it."""
        ended = (concept.tokens == self.denoiser.end_token).cumsum(1) > 0
        return ~ended & (concept.tokens != self.denoiser.start_token)


def load_inverter(config: InvertConfig, place: Place) -> Inverter:
    """Raises: WeightsError or ConfigError as `load_denoiser`."""
    return Inverter(load_denoiser(config.weights, place), config)

"""Textual inversion finds the prompt embedding with which the frozen denoiser explains a crop best.

e* = argmin_e E_{t, eps} || eps_phi(x_t, t, e) - eps ||^2. x_t is defined in models/diffusion.py. The search begins at
e_0 = EMBEDDING(T). If the settings ask for it, low-rank changes then adapt the networks to the object, under the same
loss.

Sources: Gal et al. 2022, equation 2, as Anything-3D uses it: the keyword of an object is the placeholder, and its
embedding moves. If an object has no keyword, the embeddings of all words of its caption move. cloneofsimo/lora
@d84074b, which their code calls: it pulls norms to 0.4, and it has the second phase ("pivotal tuning").
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anything3d import seed
from anything3d.errors import NumericsError
from anything3d.models.adapter import TEXT, UNET
from anything3d.models.concept import Concept
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.finite import check_network
from anything3d.models.weights import Place
from anything3d.photo.pixels import WHITE, over
from anything3d.settings.invert import InvertConfig

PULL = 100.0  # share of the way to `norm` in a step / its rate; cloneofsimo/lora


@dataclass(frozen=True, slots=True)
class Inverted:
    """One object's e* (B = 1); the denoising loss of its caption and of e*, on noise that the fit never saw."""

    concept: Concept
    loss_before: float
    loss_after: float
    steps: int  # of both phases


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
        self,
        crops: Float[Tensor, "B 4 S S"],
        captions: list[str],
        generators: Sequence[torch.Generator],
        keywords: Sequence[str] | None = None,
        at: Callable[[int, int], None] = lambda step, steps: None,
    ) -> list[Inverted | NumericsError]:
        """e* of each crop (RGBA in [0, 1], over white), beginning at its caption; all objects are fitted at once.

        `keywords` has a word of each caption, or "". The last embedding is kept, whatever its held-out loss; both
        losses are stated. An embedding or loss that is not finite is NumericsError("inversion_diverged") for its object
        only. Each object has moments, noises, an adapter and a loss of its own, so the result does not depend on what
        else is in the batch. `at` is told every step, and the number of all steps.

        Raises: WeightsError as `check_network`.
        """
        denoiser, config = self.denoiser, self.config
        concept, losses = self.fit(crops, captions, generators, keywords, at)
        steps, (before, after) = config.steps + config.lora.steps, losses.tolist()
        finite = concept.embeddings.isfinite().flatten(1).all(1).tolist()
        lost = [not math.isfinite(loss) for loss in before]
        check_network(lost, lambda: denoiser.is_sound(hint=False), config.weights, denoiser.dtype)
        return [
            Inverted(concept[b : b + 1], before[b], after[b], steps)
            if finite[b] and math.isfinite(before[b]) and math.isfinite(after[b])
            else _failed(before[b], after[b])
            for b in range(len(crops))
        ]

    def fit(
        self,
        crops: Float[Tensor, "B 4 S S"],
        captions: list[str],
        generators: Sequence[torch.Generator],
        keywords: Sequence[str] | None = None,
        at: Callable[[int, int], None] = lambda step, steps: None,
    ) -> tuple[Concept, Float[Tensor, "2 B"]]:
        """e* of each crop, and the losses of its caption and of e*, as the denoiser's device has them."""
        denoiser, config = self.denoiser, self.config
        with torch.no_grad():
            latents = denoiser.encode_image(over(crops.to(denoiser.device), WHITE)).float()
            start = denoiser.embed_prompts(captions)
        held_out = self._draw(latents, generators, config.held_out, config.t_max)
        moving = self._moving(start, keywords or [""] * len(captions))
        concept = self._fit(latents, start, moving, generators, at)
        if config.lora.steps:
            concept = self._adapt(latents, concept, moving, generators, at)
        with torch.no_grad():
            return concept, torch.stack([self._losses(latents, tried, held_out) for tried in (start, concept)])

    def _fit(
        self,
        latents: Float[Tensor, "B C h w"],
        start: Concept,
        moving: Bool[Tensor, "B L"],
        generators: Sequence[torch.Generator],
        at: Callable[[int, int], None],
    ) -> Concept:
        """Textual inversion: embeddings move."""
        config = self.config
        embeddings = start.embeddings.float().clone().requires_grad_()
        optimizer = torch.optim.Adam([embeddings], lr=config.lr, fused=embeddings.is_cuda)
        for step in range(config.steps):
            rate = config.lr * (1 + (config.lr_end - 1) * step / config.steps)
            optimizer.param_groups[0]["lr"] = rate
            noises = self._draw(latents, generators, config.samples, config.t_max)
            losses = self._losses(latents, Concept(start.tokens, embeddings), noises)
            (gradient,) = torch.autograd.grad(losses.sum(), embeddings)
            embeddings.grad = gradient * moving[..., None]
            optimizer.step()
            if config.norm:
                _pull(embeddings, moving, config.norm, min(1, PULL * rate))
            at(step + 1, config.steps + config.lora.steps)
        return Concept(start.tokens, embeddings.detach())

    def _adapt(
        self,
        latents: Float[Tensor, "B C h w"],
        start: Concept,
        moving: Bool[Tensor, "B L"],
        generators: Sequence[torch.Generator],
        at: Callable[[int, int], None],
    ) -> Concept:
        """Pivotal tuning: low-rank changes of attention in UNet and text encoder, and the embeddings go on."""
        config = self.config.lora
        embeddings = start.embeddings.clone().requires_grad_()
        adapter = self.denoiser.adapt(config.rank, generators).each(lambda factor: factor.requires_grad_())
        unet, text = adapter.factors(UNET), adapter.factors(TEXT)
        rates = (config.lr_unet, config.lr_text, config.lr_words)
        decays = (config.weight_decay, config.weight_decay, 0.0)  # embeddings of no words stay as they are
        groups = zip((unet, text, [embeddings]), decays, strict=True)
        optimizer = torch.optim.AdamW(
            [{"params": tensors, "weight_decay": decay} for tensors, decay in groups], fused=embeddings.is_cuda
        )
        for step in range(config.steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * _ramp(step / config.steps, config.warmup)
            noises = self._draw(latents, generators, config.samples, config.t_max)
            losses = self._losses(latents, Concept(start.tokens, embeddings, adapter), noises)
            trained = [*unet, *text, embeddings]
            *changes, shift = torch.autograd.grad(losses.sum(), trained)
            changes.append(shift * moving[..., None])
            _clip(changes, config.clip)
            for tensor, gradient in zip(trained, changes, strict=True):
                tensor.grad = gradient
            optimizer.step()
            at(self.config.steps + step + 1, self.config.steps + config.steps)
        used = adapter.each(lambda factor: factor.detach()).scaled(config.share)
        return Concept(start.tokens, embeddings.detach(), used)

    def _draw(
        self, latents: Float[Tensor, "B C h w"], generators: Sequence[torch.Generator], count: int, t_max: float
    ) -> Noises:
        low, n_steps = self.config.t_min, len(self.denoiser.alphas_cumprod)
        eps = seed.randn((count, *latents.shape[1:]), generators, latents.device)
        where = low + (t_max - low) * seed.rand((count,), generators, latents.device)
        return Noises(eps, (where * n_steps).long().clamp(max=n_steps - 1))

    def _losses(self, latents: Float[Tensor, "B C h w"], concept: Concept, noises: Noises) -> Float[Tensor, "B"]:
        """Mean squared error of the predicted noise, per object."""
        count = noises.t.shape[1]
        text = self.denoiser.encode_text(concept).repeat_interleave(count, 0)
        eps, t = noises.eps.flatten(0, 1), noises.t.flatten()
        noisy = self.denoiser.add_noise(latents.repeat_interleave(count, 0), eps, t)
        adapter = concept.adapter and concept.adapter.each(lambda factor: factor.repeat_interleave(count, 0))
        predicted = self.denoiser.predict_noise(noisy, t, text, adapter=adapter)
        return (predicted - eps).square().view(len(latents), -1).mean(1)

    def _moving(self, concept: Concept, keywords: Sequence[str]) -> Bool[Tensor, "B L"]:
        """Which tokens are the object's keyword, wherever it stands.

        All words where it has none, or the prompt was cut off before it.
        """
        moving = self._words(concept.tokens)
        for row, tokens, keyword in zip(moving, concept.tokens, keywords, strict=True):
            if not keyword:
                continue
            named = self.denoiser.tokenize([keyword]).to(tokens.device)
            word = named[self._words(named)]
            if (at := (tokens.unfold(0, len(word), 1) == word).all(1).nonzero()).numel():
                row.fill_(False)[at + torch.arange(len(word), device=at.device)] = True
        return moving

    def _words(self, tokens: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """All but the start, the end and the padding behind it."""
        ended = (tokens == self.denoiser.end_token).cumsum(1) > 0
        return ~ended & (tokens != self.denoiser.start_token)


def load_inverter(config: InvertConfig, place: Place) -> Inverter:
    """Raises: WeightsError or ConfigError as `load_denoiser`."""
    return Inverter(load_denoiser(config.weights, place), config)


def _failed(before: float, after: float) -> NumericsError:
    remedy = "lower invert.lr, or try another dtype" if math.isfinite(before) else "no step was made; try another dtype"
    return NumericsError("inversion_diverged", f"loss {before:.4g} -> {after:.4g}; {remedy}")


@torch.no_grad()
def _pull(embeddings: Float[Tensor, "B L C"], words: Bool[Tensor, "B L"], norm: float, share: float) -> None:
    """Bring the words' norms nearer to `norm` by `share` of the way, in place."""
    now = embeddings.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    embeddings.mul_(torch.where(words[..., None], 1 + share * (norm / now - 1), 1.0))


def _clip(gradients: Sequence[Float[Tensor, "B _ _"]], largest: float) -> None:
    """Shorten each object's gradient, all tensors together, to `largest`, in place."""
    square = torch.stack([gradient.square().sum((1, 2)) for gradient in gradients]).sum(0)
    shorter = (largest / square.sqrt().clamp_min(1e-12)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(shorter[:, None, None])


def _ramp(progress: float, warmup: float) -> float:
    """0 to 1 until `warmup`, then back to 0 at 1."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)

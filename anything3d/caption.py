"""Captions of crops by beam search or by nucleus sampling: T = BLIP(I') (Li et al. 2022).

Anything-3D samples three captions of the crop on white, without a seed. It takes the first one that has the keyword
that its user typed (AnyObject3D main.py). Here each object has its own generator. So its caption does not depend on its
neighbours in the batch, nor on their order.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d import seed
from anything3d.errors import ConfigError, NumericsError
from anything3d.models.finite import check_network
from anything3d.models.layout import check_model_type, check_tokenizer_settings
from anything3d.models.pretrained import Preprocessor, check_tokenizer, load_network, load_preprocessor, load_settings
from anything3d.models.weights import Place, directory
from anything3d.photo.pixels import WHITE, over
from anything3d.settings.caption import CaptionConfig, clean


@dataclass(frozen=True, slots=True)
class Captioned:
    """A caption and the mean log-probability (nats) of its tokens, the end included, under the plain network.

    `keyword` is a word of it, or "". Where it had to be put in front, the log-probability is of the rest.
    """

    text: str
    log_probability: float
    keyword: str = ""


@runtime_checkable
class Captioner(Protocol):
    """What a backend of `caption` loads."""

    def __call__(
        self, crops: Float[Tensor, "B 4 S S"], generators: Sequence[torch.Generator]
    ) -> list[Captioned | NumericsError]:
        """A caption of each crop (RGBA in [0, 1], straight alpha), or why there is none; row b draws from its own
        generator."""


@dataclass(frozen=True, slots=True)
class Blip:
    """A frozen BLIP with its tokenizer and its way of decoding."""

    config: CaptionConfig
    vision: nn.Module
    decoder: nn.Module
    generate: Callable[..., Tensor]  # the decoder's own
    preprocess: Preprocessor
    decode: Callable[[list[int]], str]
    prompt_ids: tuple[int, ...]  # the beginning of a caption, then `config.prompt`
    end_id: int
    pad_id: int

    @torch.inference_mode()
    def __call__(
        self, crops: Float[Tensor, "B 4 S S"], generators: Sequence[torch.Generator]
    ) -> list[Captioned | NumericsError]:
        """Captions of crops (RGBA in [0, 1]) over white; row b is sampled with `generators[b]`, one draw for each
        sample.

        Outcomes: NumericsError if a caption has no letter or digit, or its probability is not finite.

        Raises: WeightsError as `check_network`.
        """
        samples = self.config.samples
        image = self.look(over(crops, WHITE)).repeat_interleave(samples, 0)
        ids = self._continue_prompt(image, [child(g) for g in generators for _ in range(samples)])
        log_probabilities = self.log_probabilities(image, ids).tolist()
        start = len(self.prompt_ids)
        lost = [not math.isfinite(value) for value in log_probabilities]
        by_object = [any(lost[b : b + samples]) for b in range(0, len(lost), samples)]
        check_network(by_object, self._is_sound, self.config.weights, image.dtype)
        said = list(zip([self.decode(row[start:]) for row in ids.tolist()], log_probabilities, strict=True))
        return [self._choose(said[b : b + samples]) for b in range(0, len(said), samples)]

    def _choose(self, said: Sequence[tuple[str, float]]) -> Captioned | NumericsError:
        """An object's caption, of its samples."""
        try:
            return choose([captioned(*one) for one in said], self.config.keyword)
        except NumericsError as error:
            return error

    def look(self, rgb: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N C"]:
        """What the decoder reads of images in [0, 1]."""
        weight = next(self.vision.parameters())
        pixels = self.preprocess(rgb.to(weight.device, torch.float32)).to(weight.dtype)
        return self.vision(pixel_values=pixels).last_hidden_state

    def _is_sound(self) -> bool:
        """Whether what it says of plain white is finite."""
        side = self.preprocess.crop_px
        prompt = torch.tensor([[*self.prompt_ids, self.end_id]], device=next(self.vision.parameters()).device)
        return bool(self.log_probabilities(self.look(torch.ones(1, 3, side, side)), prompt).isfinite().all())

    def _continue_prompt(
        self, image: Float[Tensor, "B N C"], generators: Sequence[torch.Generator]
    ) -> Int[Tensor, "B L"]:
        """Token ids: the prompt, the caption, the end, then padding."""
        config = self.config
        match config.decoding:
            case "beam":
                beams, processors = config.beams, []
            case "nucleus":
                beams, processors = 1, [NucleusNoise(config.top_p, generators)]
            case _:
                assert_never(config.decoding)
        return self.generate(
            input_ids=torch.tensor([self.prompt_ids] * len(image), device=image.device),
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(image.shape[:2], dtype=torch.long, device=image.device),
            eos_token_id=self.end_id,
            pad_token_id=self.pad_id,
            do_sample=False,
            num_beams=beams,
            logits_processor=processors,
            repetition_penalty=config.repetition_penalty,
            min_new_tokens=config.min_tokens,
            max_new_tokens=config.max_tokens + 1,  # and the end
        )

    def log_probabilities(self, image: Float[Tensor, "B N C"], ids: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
        """Mean over each row's new tokens up to its first end, under the network without penalty or filter."""
        logits = self.decoder(input_ids=ids[:, :-1], encoder_hidden_states=image).logits.float()
        values = logits.log_softmax(dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
        new = ids[:, len(self.prompt_ids) :]
        before_end = (new == self.end_id).long().cumsum(dim=-1) - (new == self.end_id).long() == 0
        values = values[:, -new.shape[1] :]
        return torch.where(before_end, values, 0).sum(dim=-1) / before_end.sum(dim=-1)


@dataclass(frozen=True, slots=True)
class NucleusNoise:
    """Turns greedy decoding into nucleus sampling: argmax(log p + Gumbel noise) is an exact draw from p.

    p is the smallest set of likeliest tokens with mass >= `top_p`, renormalised (Holtzman et al. 2020). Row b's noise
    comes from `generators[b]`, where a sampler on the global generator would mix the rows.
    """

    top_p: float
    generators: Sequence[torch.Generator]

    def __call__(self, ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        probabilities, order = scores.float().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        outside = probabilities.cumsum(dim=-1) - probabilities >= self.top_p
        kept = probabilities.masked_fill(outside, 0).log()
        uniform = seed.rand(scores.shape[1:], self.generators, scores.device).clamp_min(1e-30)
        noisy = kept - (-uniform.gather(-1, order).log()).log()
        return torch.empty_like(noisy).scatter_(-1, order, noisy)


def child(generator: torch.Generator) -> torch.Generator:
    """A generator of its own, seeded by one draw: rows that finish early draw more than they need."""
    return torch.Generator().manual_seed(int(torch.randint(2**53, (), generator=generator)))


def captioned(text: str, log_probability: float) -> Captioned:
    """The caption, cleaned.

    Raises: NumericsError if it has no letter or digit, or its probability is not finite.
    """
    text = clean(text)
    if not -float("inf") < log_probability <= 0:
        raise NumericsError(
            "caption_not_finite",
            f"caption {text!r} has log-probability {log_probability}; run the captioner in float32",
        )
    if not any(character.isalnum() for character in text):
        raise NumericsError(
            "empty_caption", f"the captioner said {text!r}; look at the crop, or raise caption.min_tokens"
        )
    return Captioned(text, log_probability)


def choose(captions: Sequence[Captioned], keyword: str) -> Captioned:
    """The first caption that has the keyword; without one, the likeliest. The keyword is put first where none has it.

    Source: AnyObject3D main.py, where a keyword is also found inside other words.
    """
    if not keyword:
        return max(captions, key=lambda caption: caption.log_probability)
    word = re.compile(rf"\b{re.escape(keyword)}\b", re.IGNORECASE)
    having = next((caption for caption in captions if word.search(caption.text)), None)
    text = having.text if having else clean(f"{keyword}, {captions[0].text}")
    return dataclasses.replace(having or captions[0], text=text, keyword=keyword)


def load_blip(config: CaptionConfig, place: Place) -> Blip:
    """The BLIP of a transformers folder.

    Raises: ConfigError if the network cannot place `config.max_tokens`; WeightsError for a missing or broken folder.
    """
    from transformers import BertTokenizer, BlipForConditionalGeneration

    folder = directory(config.weights, place)
    check_model_type(folder / "config.json", ("blip",))
    check_tokenizer_settings(folder, ("BertTokenizer",))
    model = load_network(BlipForConditionalGeneration.from_pretrained, folder, place)
    tokenizer = load_settings(BertTokenizer.from_pretrained, folder)
    text = model.config.text_config
    check_tokenizer(len(tokenizer), text.vocab_size, folder)
    prompt_ids = tokenizer(config.prompt, add_special_tokens=False)["input_ids"]
    longest = 1 + len(prompt_ids) + config.max_tokens + 1
    if longest > text.max_position_embeddings:
        raise ConfigError(
            "setting",
            f"caption.max_tokens is {config.max_tokens}, with prompt and end {longest}; "
            f"{config.weights} can place {text.max_position_embeddings} tokens",
        )
    return Blip(
        config=config,
        vision=model.vision_model,
        decoder=model.text_decoder,
        generate=model.text_decoder.generate,
        preprocess=load_preprocessor(folder),
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        prompt_ids=(text.bos_token_id, *prompt_ids),
        end_id=text.sep_token_id,
        pad_id=text.pad_token_id,
    )

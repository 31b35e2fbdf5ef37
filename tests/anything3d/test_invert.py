"""Textual inversion, with small networks of random weights: the same code as with trained ones."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anything3d import seed
from anything3d.errors import ConfigError, NumericsError, WeightsError
from anything3d.invert import Inverted, Inverter, load_inverter
from anything3d.mini import diffusion as mini
from anything3d.models.concept import Concept, concept_to_bytes, concepts_from_bytes
from anything3d.models.weights import Place
from anything3d.photo.pixels import over
from anything3d.settings.invert import InvertConfig, LoraConfig

CAPTIONS = ["a red mug", "an orange torus", "a photo of the overhead view of a white table"]
IDS = ["sa_1-0000", "sa_1-0001", "sa_2-0000"]
CONFIG = InvertConfig(steps=8, samples=3, held_out=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("diffusion")
    mini.save(mini.build(0), path)
    return path


@pytest.fixture(scope="module")
def inverter(folder: Path) -> Inverter:
    return load_inverter(dataclasses.replace(CONFIG, weights=str(folder)), Place())


def with_config(inverter: Inverter, **changes: object) -> Inverter:
    return Inverter(inverter.denoiser, dataclasses.replace(inverter.config, **changes))


def crops(size: int = 64) -> torch.Tensor:
    """Discs of three colours on transparent black."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    alpha = (u.square() + v.square() < 0.4).float()
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.9, 0.5, 0.1], [0.9, 0.9, 0.9]])
    return torch.cat([colors[:, :, None, None] * alpha, alpha.expand(3, 1, -1, -1)], dim=1)


def invert(inverter: Inverter, rows: list[int]) -> list[Inverted | NumericsError]:
    generators = seed.generators(0, "invert", [IDS[b] for b in rows])
    return inverter(crops()[rows], [CAPTIONS[b] for b in rows], generators)


def test_inversion_lowers_the_loss_on_noise_it_has_not_seen(inverter):
    for found in invert(with_config(inverter, steps=30, held_out=16), [0, 1, 2]):
        assert found.loss_after < found.loss_before - 0.005
        assert found.steps == 30


class Believer(nn.Module):
    """A network that is sure of the clean latents: the text's first word says their four channels."""

    def __init__(self, alphas_cumprod: torch.Tensor) -> None:
        super().__init__()
        self.alphas_cumprod = alphas_cumprod

    def forward(self, noisy, t, encoder_hidden_states, **_):
        alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        clean = encoder_hidden_states[:, 1, :4, None, None]
        return ((noisy - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt(),)


class Rows(nn.Module):
    """A text encoder that passes its input embeddings on."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, input_ids):
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def believing(inverter: Inverter, targets: torch.Tensor, **changes: object) -> Inverter:
    """An inverter whose loss is mean(alpha_bar / (1 - alpha_bar)) |z - e|^2 over the first word's first four numbers,
    z being `targets` "B 4": convex, without noise, and zero at e = z only."""
    denoiser = inverter.denoiser
    believer = dataclasses.replace(
        denoiser,
        unet=Believer(denoiser.alphas_cumprod),
        text_encoder=Rows(denoiser.table),
        encode=lambda pixels: targets[:, :, None, None].expand(-1, -1, 16, 16),
    )
    return Inverter(believer, dataclasses.replace(inverter.config, **changes))


def test_inversion_finds_the_embedding_where_there_is_exactly_one(inverter):
    targets = torch.tensor([[0.5, -0.5, 1.0, 0.0], [-1.0, 0.3, 0.2, 0.7], [0.1, 0.1, -0.8, -0.4]])
    found = invert(believing(inverter, targets, steps=300, samples=4, held_out=16), [0, 1, 2])
    start = inverter.denoiser.embed_prompts(CAPTIONS)
    for b, one in enumerate(found):
        torch.testing.assert_close(one.concept.embeddings[0, 1, :4], targets[b], rtol=0, atol=0.02)
        assert one.loss_after < 1e-3 * one.loss_before
        assert torch.equal(one.concept.embeddings[0, 2:], start.embeddings[b, 2:])


def test_a_loss_that_is_infinite_ends_its_own_object_only(inverter):
    targets = torch.tensor([[0.5] * 4, [1e30] * 4, [0.5] * 4])  # its square is no float32
    found = invert(believing(inverter, targets, steps=0), [0, 1, 2])
    assert [type(one) for one in found] == [Inverted, NumericsError, Inverted]


def test_an_inverted_object_does_not_depend_on_its_batch(inverter):
    together = invert(inverter, [0, 1, 2])
    for b, whole in enumerate(together):
        (alone,) = invert(inverter, [b])
        assert torch.equal(alone.concept.tokens, whole.concept.tokens)
        torch.testing.assert_close(alone.concept.embeddings, whole.concept.embeddings, rtol=0, atol=1e-4)
        assert alone.loss_before == pytest.approx(whole.loss_before, abs=1e-4)
        assert alone.loss_after == pytest.approx(whole.loss_after, abs=1e-4)


def test_only_words_move(inverter):
    start = inverter.denoiser.embed_prompts(CAPTIONS)
    for b, (found, words) in enumerate(zip(invert(inverter, [0, 1, 2]), (3, 3, 10), strict=True)):
        moved = (found.concept.embeddings[0] != start.embeddings[b]).all(-1)
        held = (found.concept.embeddings[0] == start.embeddings[b]).all(-1)
        assert moved.tolist() == [False] + [True] * words + [False] * (15 - words)
        assert torch.equal(held, ~moved)


def test_of_a_caption_with_a_keyword_only_that_moves(inverter):
    start = inverter.denoiser.embed_prompts(CAPTIONS)
    keywords = ["mug", "", "of"]
    for lora in (LoraConfig(), LoraConfig(steps=2)):
        told: list[tuple[int, int]] = []
        found = with_config(inverter, steps=2, lora=lora)(
            crops(), CAPTIONS, seed.generators(0, "invert", IDS), keywords, lambda *at, told=told: told.append(at)
        )
        steps = 2 + lora.steps
        assert told == [(step, steps) for step in range(1, steps + 1)]
        places = [[3], [1, 2, 3], [3, 7]]  # start, then the words
        for b, (one, own) in enumerate(zip(found, places, strict=True)):
            moved = (one.concept.embeddings[0] != start.embeddings[b]).any(-1).nonzero()[:, 0]
            assert moved.tolist() == own


def test_a_keyword_that_the_prompt_has_no_room_for_leaves_all_words_moving(inverter):
    caption = "a red mug " * 8 + "torus"
    tokens = inverter.denoiser.embed_prompts([caption])
    assert torch.equal(inverter._moving(tokens, ["torus"]), inverter._moving(tokens, [""]))


def test_the_first_step_goes_against_the_gradient_of_the_mean_squared_error(inverter):
    """Adam's first step is the rate times the gradient's sign; here the gradient is a difference quotient."""
    denoiser = inverter.denoiser
    (found,) = invert(with_config(inverter, steps=1, samples=2), [0])
    start = denoiser.embed_prompts(CAPTIONS[:1])
    (generator,) = seed.generators(0, "invert", IDS[:1])
    inverter._draw(torch.zeros(1, 4, 16, 16), [generator], 4, 1.0)  # the held-out ones come first
    noises = inverter._draw(torch.zeros(1, 4, 16, 16), [generator], 2, 1.0)
    direction = found.concept.embeddings - start.embeddings
    torch.testing.assert_close(direction[0, 1:4].abs(), torch.full((3, 64), 0.02), rtol=1e-3, atol=0)

    @torch.no_grad()
    def loss(shift: float) -> float:
        clean = denoiser.encode_image(over(crops()[:1], 1.0))
        text = denoiser.encode_text(Concept(start.tokens, start.embeddings + shift * direction))
        errors = []
        for k in range(2):
            t, eps = noises.t[:, k], noises.eps[:, k]
            predicted = denoiser.predict_noise(denoiser.add_noise(clean, eps, t), t, text)
            errors.append((predicted - eps).square().mean())
        return float(sum(errors) / 2)

    assert loss(0.1) < loss(0.0) < loss(-0.1)


def test_losses_are_those_of_the_caption_and_of_the_concept_on_the_same_noise(inverter):
    denoiser = inverter.denoiser
    (found,) = invert(inverter, [1])
    noises = inverter._draw(torch.zeros(1, 4, 16, 16), seed.generators(0, "invert", IDS[1:2]), 4, 1.0)
    assert noises.t.min() >= 100
    clean = denoiser.encode_image(over(crops()[1:2], 1.0))
    for text, stated in (
        (denoiser.encode_text([CAPTIONS[1]]), found.loss_before),
        (denoiser.encode_text(found.concept), found.loss_after),
    ):
        errors = []
        for k in range(4):
            t, eps = noises.t[:, k], noises.eps[:, k]
            predicted = denoiser.predict_noise(denoiser.add_noise(clean, eps, t), t, text)
            errors.append((predicted - eps).square().mean().item())
        assert stated == pytest.approx(sum(errors) / 4, rel=1e-4)


def test_no_steps_and_no_words_change_nothing(inverter):
    start = inverter.denoiser.embed_prompts([*CAPTIONS, ""])
    for b, found in enumerate(invert(with_config(inverter, steps=0), [0, 1, 2])):
        assert torch.equal(found.concept.embeddings[0], start.embeddings[b])
        assert found.loss_after == found.loss_before
    (wordless,) = inverter(crops()[:1], [""], seed.generators(0, "invert", IDS[:1]))
    assert torch.equal(wordless.concept.embeddings[0], start.embeddings[3])


def test_a_crop_that_is_not_finite_ends_its_own_object_only(inverter):
    broken = crops()
    broken[1, 0, 5, 5] = float("nan")
    found = inverter(broken, CAPTIONS, seed.generators(0, "invert", IDS))
    assert isinstance(found[1], NumericsError)
    assert found[1].reason == "inversion_diverged"
    for b, whole in ((0, found[0]), (2, found[2])):
        (alone,) = invert(inverter, [b])
        torch.testing.assert_close(alone.concept.embeddings, whole.concept.embeddings, rtol=0, atol=1e-4)


class Broken(nn.Module):
    """A UNet that says NaN of these rows, and whatever the real one says of the others."""

    def __init__(self, unet: nn.Module, rows: slice) -> None:
        super().__init__()
        self.unet, self.rows = unet, rows

    def forward(self, noisy, t, **conditions):
        answer = self.unet(noisy, t, **conditions)[0].clone()
        answer[self.rows] = torch.nan
        return (answer,)


def broken(inverter: Inverter, rows: slice) -> Inverter:
    denoiser = dataclasses.replace(inverter.denoiser, unet=Broken(inverter.denoiser.unet, rows))
    return Inverter(denoiser, dataclasses.replace(inverter.config, steps=1))


@pytest.mark.parametrize("rows", [[0, 1], [0]], ids=["batch", "alone"])
def test_a_network_that_says_nan_of_all_objects_ends_the_run(inverter, rows):
    with pytest.raises(WeightsError, match=r"weights_not_finite: .* in float32 says NaN or Inf of every object"):
        invert(broken(inverter, slice(None)), rows)


def test_a_nan_of_one_object_of_several_is_its_own(inverter):
    sound, lost = invert(broken(inverter, slice(CONFIG.held_out, None)), [0, 1])
    assert isinstance(sound, Inverted)
    assert isinstance(lost, NumericsError)
    assert lost.reason == "inversion_diverged"


def test_an_object_alone_whose_own_crop_is_nan_does_not_end_the_run(inverter):
    crop = crops()[:1]
    crop[0, 0, 5, 5] = float("nan")
    (found,) = inverter(crop, CAPTIONS[:1], seed.generators(0, "invert", IDS[:1]))
    assert isinstance(found, NumericsError)


def test_crops_of_another_size_are_accepted(inverter):
    found = with_config(inverter, steps=1)(crops(128), CAPTIONS, seed.generators(0, "invert", IDS))
    reference = invert(with_config(inverter, steps=1), [0, 1, 2])
    for large, small in zip(found, reference, strict=True):
        assert large.loss_before == pytest.approx(small.loss_before, abs=0.01)


def test_a_concept_travels_as_bytes_and_prompts_the_denoiser(inverter):
    found = invert(inverter, [0, 1])
    read = concepts_from_bytes([concept_to_bytes(one.concept) for one in found])
    assert len(read) == 2
    text = inverter.denoiser.encode_text(read, "front view of")
    torch.testing.assert_close(text[1:], inverter.denoiser.encode_text(found[1].concept, "front view of"))


@pytest.mark.parametrize(
    "setting", [{"steps": -1}, {"samples": 0}, {"held_out": 0}, {"t_min": 0.9, "t_max": 0.8}, {"t_max": 1.5}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match="setting"):
        InvertConfig(**setting)


def test_missing_weights_are_refused():
    with pytest.raises(WeightsError, match="weights_missing"):
        load_inverter(InvertConfig(weights="no-such-weights"), Place())

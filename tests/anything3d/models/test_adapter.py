"""Adapters against the same changes merged into the weights, and their training."""

import copy
import dataclasses

import pytest
import torch

from anything3d import seed
from anything3d.errors import ConfigError, InputError
from anything3d.invert import Inverted, Inverter
from anything3d.mini import diffusion as mini
from anything3d.models import official
from anything3d.models.adapter import TEXT, UNET, Adapter, Factors
from anything3d.models.concept import concept_to_bytes, concepts_from_bytes
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.weights import Place
from anything3d.settings.invert import InvertConfig, LoraConfig

IDS = ["sa_1-0000", "sa_1-0001"]
CAPTIONS = ["a red mug", "an orange torus"]
LORA = LoraConfig(steps=12, lr_unet=4e-3, lr_text=4e-4)
CONFIG = InvertConfig(steps=0, samples=2, held_out=8, lora=LORA)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("diffusion")
    mini.save(mini.build(0), path)
    return load_denoiser(str(path), Place())


@pytest.fixture(scope="module")
def adapter(denoiser: Denoiser) -> Adapter:
    """Of two objects, rank 2, with random factors all over."""
    generator = torch.Generator().manual_seed(5)
    fresh = denoiser.adapt(2, seed.generators(0, "invert", IDS))
    return fresh.each(lambda factor: torch.randn(factor.shape, generator=generator) * 0.1)


def latents() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def crops() -> torch.Tensor:
    """Two discs on transparent black."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    alpha = (u.square() + v.square() < 0.4).float()
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.9, 0.5, 0.1]])
    return torch.cat([colors[:, :, None, None] * alpha, alpha.expand(2, 1, -1, -1)], dim=1)


def merged(denoiser: Denoiser, adapter: Adapter, b: int) -> Denoiser:
    """The denoiser with W + up down of object b in place of W."""
    parts = {UNET: copy.deepcopy(denoiser.unet), TEXT: copy.deepcopy(denoiser.text_encoder)}
    for name, layer in adapter.layers.items():
        part, _, path = name.partition(".")
        parts[part].get_submodule(path).weight.data += layer.up[b] @ layer.down[b]
    text = parts[TEXT]
    return dataclasses.replace(denoiser, unet=parts[UNET], text_encoder=text, table=text.get_input_embeddings())


def test_objects_of_a_batch_have_the_weights_of_their_own_adapters(denoiser, adapter):
    concept = dataclasses.replace(denoiser.embed_prompts(CAPTIONS), adapter=adapter)
    t = torch.tensor([40, 700])
    with torch.no_grad():
        text, no_text = denoiser.encode_text(concept), denoiser.encode_text(["", ""])
        noise = denoiser.predict_noise(latents(), t, text, adapter=adapter)
        guided = denoiser.guided_noise(latents(), t, (text, no_text), None, 5.0, adapter=adapter)
        for b in range(2):
            own = merged(denoiser, adapter, b)
            row = slice(b, b + 1)
            own_text = own.encode_text([CAPTIONS[b]])
            torch.testing.assert_close(text[row], own_text, rtol=0, atol=1e-5)
            torch.testing.assert_close(
                noise[row], own.predict_noise(latents()[row], t[row], own_text), rtol=0, atol=1e-5
            )
            expected = own.guided_noise(latents()[row], t[row], (own_text, no_text[row]), None, 5.0)
            torch.testing.assert_close(guided[row], expected, rtol=0, atol=5e-5)
        assert (noise - denoiser.predict_noise(latents(), t, text)).abs().max() > 1e-3
        assert (text - denoiser.encode_text(CAPTIONS)).abs().max() > 1e-3


def test_an_adapter_begins_without_effect_on_attention_and_its_gate(denoiser):
    fresh = denoiser.adapt(1, seed.generators(0, "invert", IDS))
    text = denoiser.encode_text(CAPTIONS)
    t = torch.tensor([40, 700])
    with torch.no_grad():
        plain = denoiser.predict_noise(latents(), t, text)
        assert torch.equal(denoiser.predict_noise(latents(), t, text, adapter=fresh), plain)
    kinds = {name.rpartition("transformer_blocks.0.")[2] for name in fresh.layers if name.startswith(UNET)}
    attention = {f"attn{n}.{layer}" for n in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")}
    assert kinds == attention | {"ff.net.0.proj"}
    text_layers = [name for name in fresh.layers if name.startswith(TEXT)]
    assert len(text_layers) == 4 * denoiser.text_encoder.config.num_hidden_layers
    assert not any(layer._forward_hooks for layer in denoiser.unet.modules())  # none is left behind


def test_factors_add_up_down_x_by_hand():
    factors = Factors(
        down=torch.tensor([[[1.0, 2.0]], [[0.0, 1.0]]]), up=torch.tensor([[[3.0], [0.5]], [[1.0], [1.0]]])
    )
    x = torch.tensor([[[1.0, 1.0]], [[5.0, 2.0]]])
    assert factors(x).tolist() == [[[9.0, 1.5]], [[2.0, 2.0]]]


def test_concepts_keep_their_adapter_as_bytes(denoiser, adapter):
    concept = dataclasses.replace(denoiser.embed_prompts(CAPTIONS), adapter=adapter)
    files = [concept_to_bytes(concept[b : b + 1]) for b in range(2)]
    read = concepts_from_bytes(files)
    assert read.adapter is not None
    assert read.adapter.layers.keys() == adapter.layers.keys()
    for name, layer in adapter.layers.items():
        assert torch.equal(read.adapter.layers[name].down, layer.down)
        assert torch.equal(read.adapter.layers[name].up, layer.up)
    assert files[0] == concept_to_bytes(concept[:1])
    plain = concept_to_bytes(denoiser.embed_prompts(CAPTIONS[1:]))
    with pytest.raises(InputError, match="bad_concept"):
        concepts_from_bytes([files[0], plain])


def test_adapting_lowers_the_loss_on_noise_it_has_not_seen(denoiser):
    whole = dataclasses.replace(CONFIG, held_out=16, lora=dataclasses.replace(LORA, steps=40, share=1.0))
    none = dataclasses.replace(whole, lora=LoraConfig())
    adapted, plain = (run(Inverter(denoiser, config)) for config in (whole, none))
    for found, bare in zip(adapted, plain, strict=True):
        assert found.loss_before == bare.loss_before
        assert found.loss_after < bare.loss_after - 0.005
        assert (found.steps, bare.steps, bare.concept.adapter) == (40, 0, None)


def run(inverter: Inverter, rows: slice = slice(None)) -> list[Inverted]:
    found = inverter(crops()[rows], CAPTIONS[rows], seed.generators(0, "invert", IDS[rows]))
    assert all(isinstance(one, Inverted) for one in found)
    return found


def test_an_adapter_does_not_depend_on_what_else_is_in_the_batch(denoiser):
    inverter = Inverter(denoiser, CONFIG)
    both = run(inverter)
    for b in range(2):
        (alone,) = run(inverter, slice(b, b + 1))
        torch.testing.assert_close(alone.concept.embeddings, both[b].concept.embeddings, rtol=0, atol=1e-5)
        for name, layer in alone.concept.adapter.layers.items():
            torch.testing.assert_close(layer.up, both[b].concept.adapter.layers[name].up, rtol=0, atol=1e-5)
    ups = [torch.cat([layer.up.flatten() for layer in one.concept.adapter.layers.values()]) for one in both]
    assert (ups[0] - ups[1]).abs().max() > 1e-5


def test_a_share_of_the_trained_change_is_used(denoiser):
    (third,), (whole,) = (
        run(Inverter(denoiser, dataclasses.replace(CONFIG, lora=dataclasses.replace(LORA, share=share))), slice(1))
        for share in (0.3, 1.0)
    )
    for name, layer in whole.concept.adapter.layers.items():
        assert torch.equal(third.concept.adapter.layers[name].down, layer.down)
        torch.testing.assert_close(third.concept.adapter.layers[name].up, layer.up * 0.3)


def test_words_are_pulled_to_the_norm_and_other_rows_stay(denoiser):
    config = InvertConfig(steps=3, lr=0.02, norm=0.4, samples=1, held_out=1)  # 100 * 0.02 > 1: all the way at each step
    (found,) = run(Inverter(denoiser, config), slice(1))
    start = denoiser.embed_prompts(CAPTIONS[:1]).embeddings[0]
    rows = found.concept.embeddings[0]
    torch.testing.assert_close(rows[1:4].norm(dim=1), torch.full((3,), 0.4))
    assert torch.equal(rows[[0, *range(4, 16)]], start[[0, *range(4, 16)]])
    slow = InvertConfig(steps=1, lr=0.002, norm=0.4, samples=1, held_out=1)  # a fifth of the way
    free = dataclasses.replace(slow, norm=0.0)
    pulled, unpulled = (
        run(Inverter(denoiser, c), slice(1))[0].concept.embeddings[0, 1:4].norm(dim=1) for c in (slow, free)
    )
    torch.testing.assert_close(pulled, unpulled + 0.2 * (0.4 - unpulled))


def test_the_rate_of_the_words_falls_to_its_end(denoiser):
    """Adam's steps are about as long as the rate: 0.02 at first, then half of it."""
    one, two = (InvertConfig(steps=n, lr=0.02, lr_end=0.0, samples=1, held_out=1) for n in (1, 2))
    start = denoiser.embed_prompts(CAPTIONS[:1]).embeddings[0, 1:4]
    first, second = (run(Inverter(denoiser, c), slice(1))[0].concept.embeddings[0, 1:4] for c in (one, two))
    torch.testing.assert_close((first - start).abs(), torch.full_like(start, 0.02), rtol=1e-2, atol=0)
    assert (second - first).abs().max() < 0.0101


@pytest.mark.parametrize("setting", [{"steps": -1}, {"rank": 0}, {"samples": 0}, {"warmup": 1.0}, {"t_max": 1.5}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match="setting"):
        LoraConfig(**setting)
    with pytest.raises(ConfigError, match=r"invert\.lora\.t_max"):
        InvertConfig(t_min=0.85, lora=LoraConfig(steps=1))


def test_an_adapter_of_stable_diffusion_has_the_size_worked_out_by_hand():
    """2 C for q, k, v, out and for q, out; 768 + C for k, v of the caption; 9 C of the gate; 4 (768 + 768) of text.

    16 blocks of widths C = 5 x 320, 5 x 640, 6 x 1280; 12 layers of text.
    """
    with torch.device("meta"):
        parts = {UNET: official.unet(), TEXT: official.text_encoder()}
    adapter = Adapter.begin(parts, 1, seed.generators(0, "invert", IDS[:1]))
    sizes = {part: sum(factor.numel() for factor in adapter.factors(part)) for part in parts}
    assert sizes == {UNET: 23 * (5 * 320 + 5 * 640 + 6 * 1280) + 16 * 2 * 768, TEXT: 12 * 4 * 2 * 768}

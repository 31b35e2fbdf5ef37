"""The denoiser, with small networks of random weights: the same code as with trained ones."""

import dataclasses
import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from anything3d.errors import InputError, WeightsError
from anything3d.mini import diffusion as mini
from anything3d.mini.tokens import clip_vocabulary, save_clip_tokenizer
from anything3d.models.concept import Concept, concept_to_bytes, concepts_from_bytes
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.weights import Place

CAPTIONS = ["a red mug", "an orange torus on the table"]
ZERO_AT_FIRST = ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("diffusion")
    networks = mini.build(0)
    with torch.no_grad():  # a ControlNet that has left its beginning, where its outputs are zero
        for name, parameter in networks.controlnet.named_parameters():
            if name.startswith(
                ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")
            ):
                parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))
    mini.save(networks, path)
    return path


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> Denoiser:
    return load_denoiser(str(folder), Place())


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same folder, to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def latents(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def hints(rows: int = 2) -> torch.Tensor:
    return torch.rand(rows, 3, 64, 64, generator=torch.Generator().manual_seed(1))


T = torch.tensor([300, 700])


def test_text_of_untouched_embeddings_is_the_text_encoders_own_output(denoiser):
    concept = denoiser.embed_prompts(CAPTIONS)
    with torch.no_grad():
        expected = denoiser.text_encoder(input_ids=concept.tokens).last_hidden_state
    torch.testing.assert_close(denoiser.encode_text(concept), expected, rtol=0, atol=0)
    torch.testing.assert_close(denoiser.encode_text(CAPTIONS), expected, rtol=0, atol=0)


def test_a_changed_word_changes_the_text_from_its_place_on(denoiser):
    concept = denoiser.embed_prompts(CAPTIONS)
    changed = concept.embeddings.clone()
    changed[0, 2] += 1
    difference = (denoiser.encode_text(Concept(concept.tokens, changed)) - denoiser.encode_text(concept)).abs().amax(-1)
    assert (difference[0, :2] == 0).all()
    assert (difference[0, 2:] > 0).all()
    assert (difference[1] == 0).all()


@pytest.mark.parametrize("caption", ["a red mug", "a red mug and a blue box " * 4])
def test_a_prefix_stands_in_front_of_the_words_and_the_end_stays(denoiser, caption):
    together = denoiser.encode_text([f"overhead view of {caption}"])
    torch.testing.assert_close(denoiser.encode_text([caption], "overhead view of"), together)


@pytest.mark.parametrize(("words", "kept"), [(3, 3), (14, 11)])  # 14 words fill the 16 tokens
def test_a_prefix_moves_inverted_embeddings_along_and_cuts_the_last_ones(denoiser, words, kept):
    concept = denoiser.embed_prompts(["red " * words])
    inverted = torch.randn(words, 64, generator=torch.Generator().manual_seed(2))
    concept.embeddings[0, 1 : 1 + words] = inverted
    expected = denoiser.embed_prompts(["overhead view of " + "red " * kept])
    assert (expected.tokens[0] == denoiser.end_token).int().argmax() == 1 + 3 + kept
    expected.embeddings[0, 4 : 4 + kept] = inverted[:kept]
    assert torch.equal(denoiser._prepend("overhead view of", concept).tokens, expected.tokens)  # the end among them
    text = denoiser.encode_text(concept, "overhead view of")
    torch.testing.assert_close(text, denoiser.encode_text(expected), rtol=0, atol=1e-6)


def test_a_prefix_is_not_padded_where_padding_is_a_word(copy):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(copy / "tokenizer", local_files_only=True)
    tokenizer.pad_token = "!"  # as in Stable Diffusion 2
    tokenizer.save_pretrained(copy / "tokenizer")
    denoiser = load_denoiser(str(copy), Place())
    together = denoiser.encode_text(["front view of a red mug"])
    torch.testing.assert_close(denoiser.encode_text(["a red mug"], "front view of"), together)


def test_gradient_reaches_the_embeddings_and_no_weight(denoiser):
    concept = denoiser.embed_prompts(CAPTIONS)
    embeddings = concept.embeddings.clone().requires_grad_()
    text = denoiser.encode_text(Concept(concept.tokens, embeddings))
    denoiser.predict_noise(latents(), T, text, hints()).square().sum().backward()
    assert (embeddings.grad[:, 1:3].abs().sum((1, 2)) > 0).all()
    for network in (denoiser.unet, denoiser.controlnet, denoiser.text_encoder):
        assert all(parameter.grad is None for parameter in network.parameters())


@torch.no_grad()
def test_prediction_is_that_of_the_networks_called_one_after_the_other(folder, denoiser):
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    controlnet = ControlNetModel.from_pretrained(folder / "controlnet", torch_dtype=torch.float32).eval()
    text = denoiser.encode_text(CAPTIONS)
    plain = unet(latents(), T, text).sample
    torch.testing.assert_close(denoiser.predict_noise(latents(), T, text), plain, rtol=0, atol=1e-6)
    residuals = controlnet(latents(), T, text, hints(), conditioning_scale=0.7)
    hinted = unet(
        latents(), T, text,
        down_block_additional_residuals=residuals.down_block_res_samples,
        mid_block_additional_residual=residuals.mid_block_res_sample,
    ).sample  # fmt: skip
    torch.testing.assert_close(denoiser.predict_noise(latents(), T, text, hints(), 0.7), hinted, rtol=0, atol=1e-6)


@torch.no_grad()
def test_guided_noise_is_that_of_two_separate_calls(denoiser):
    text, no_text = denoiser.encode_text(CAPTIONS), denoiser.encode_text(["", ""])
    with_text = denoiser.predict_noise(latents(), T, text, hints(), 0.7)
    without = denoiser.predict_noise(latents(), T, no_text, hints(), 0.7)
    assert (with_text - without).abs().max() > 1e-4
    guided = denoiser.guided_noise(latents(), T, (text, no_text), hints(), 5.0, 0.7)
    torch.testing.assert_close(guided, -4 * without + 5 * with_text, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_layout_of_a_gpus_weights_does_not_change_what_is_said(denoiser):
    turned = {
        name: deepcopy(getattr(denoiser, name)).to(memory_format=torch.channels_last) for name in ("unet", "controlnet")
    }
    text = denoiser.encode_text(CAPTIONS)
    said, same = (
        own.predict_noise(latents(), T, text, hints()) for own in (denoiser, dataclasses.replace(denoiser, **turned))
    )
    assert turned["unet"].conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(same, said, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_hint_changes_the_prediction_unless_its_scale_is_zero(denoiser):
    text = denoiser.encode_text(CAPTIONS)
    plain = denoiser.predict_noise(latents(), T, text)
    hinted = denoiser.predict_noise(latents(), T, text, hints())
    assert (hinted - plain).abs().amax((1, 2, 3)).min() > 1e-3
    assert (denoiser.predict_noise(latents(), T, text, 1 - hints()) - hinted).abs().max() > 1e-4
    torch.testing.assert_close(denoiser.predict_noise(latents(), T, text, hints(), 0.0), plain)


@torch.no_grad()
def test_a_hint_means_nothing_to_an_untrained_controlnet_and_is_refused_without_one(tmp_path):
    mini.save(mini.build(0), tmp_path)
    fresh = load_denoiser(str(tmp_path), Place())
    text = fresh.encode_text(CAPTIONS)
    plain = fresh.predict_noise(latents(), T, text)
    torch.testing.assert_close(fresh.predict_noise(latents(), T, text, hints()), plain, rtol=0, atol=0)
    shutil.rmtree(tmp_path / "controlnet")
    bare = load_denoiser(str(tmp_path), Place())
    torch.testing.assert_close(bare.predict_noise(latents(), T, text), plain, rtol=0, atol=0)
    with pytest.raises(WeightsError, match="no_controlnet"):
        bare.predict_noise(latents(), T, text, hints())


@torch.no_grad()
def test_rows_do_not_depend_on_their_batch(denoiser):
    text = denoiser.encode_text(CAPTIONS)
    rgb = hints()
    together = denoiser.encode_image(rgb), denoiser.predict_noise(latents(), T, text, rgb)
    alone = denoiser.encode_image(rgb[1:]), denoiser.predict_noise(latents()[1:], T[1:], text[1:], rgb[1:])
    for whole, part in zip(together, alone, strict=True):
        torch.testing.assert_close(part[0], whole[1], rtol=0, atol=1e-5)


def test_noise_is_added_as_the_schedule_says(denoiser):
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - beta, 0)
    assert len(denoiser.alphas_cumprod) == 1000
    torch.testing.assert_close(denoiser.alphas_cumprod.double(), alpha_bar, rtol=1e-4, atol=0)
    noisy = denoiser.add_noise(torch.full((2, 4, 1, 1), 2.0), torch.full((2, 4, 1, 1), 3.0), T)
    expected = 2 * alpha_bar[T].sqrt() + 3 * (1 - alpha_bar[T]).sqrt()
    torch.testing.assert_close(noisy[:, 0, 0, 0].double(), expected, rtol=1e-4, atol=0)


def test_noise_is_added_as_the_scheduler_of_diffusers_does(folder, denoiser):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    noise, t = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 999])
    expected = scheduler.add_noise(latents(), noise, t)
    torch.testing.assert_close(denoiser.add_noise(latents(), noise, t), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_denoising_follows_diffusers_own_pipeline_step_by_step(folder, denoiser):
    """Same latents, prompt, hint and scheduler as StableDiffusionControlNetPipeline: the same latents at every step."""
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        DDIMScheduler,
        StableDiffusionControlNetPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    pipeline = StableDiffusionControlNetPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        controlnet=ControlNetModel.from_pretrained(folder / "controlnet"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    seen = []

    def watch(pipe, step, t, values):
        seen.append(values["latents"].clone())
        return {}

    hint = hints()
    pipeline(
        prompt=CAPTIONS, image=hint, latents=latents(), num_inference_steps=8, guidance_scale=7.5,
        controlnet_conditioning_scale=0.8, output_type="latent", callback_on_step_end=watch,
    )  # fmt: skip

    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False)
    scheduler.set_timesteps(8)
    x = latents()
    texts = denoiser.encode_text(CAPTIONS), denoiser.encode_text(["", ""])
    for t, theirs in zip(scheduler.timesteps, seen, strict=True):
        with torch.no_grad():
            noise = denoiser.guided_noise(x, t.expand(2), texts, hint, 7.5, 0.8)
        x = scheduler.step(noise, t, x).prev_sample
        torch.testing.assert_close(x, theirs, rtol=1e-4, atol=1e-4)


def test_velocity_is_turned_into_noise(denoiser, copy):
    rewrite(copy / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    by_velocity = load_denoiser(str(copy), Place())
    text = denoiser.encode_text(CAPTIONS)
    velocity = denoiser.predict_noise(latents(), T, text)  # the same network's output, read as noise
    alpha_bar = denoiser.alphas_cumprod[T].view(-1, 1, 1, 1)
    expected = alpha_bar.sqrt() * velocity + (1 - alpha_bar).sqrt() * latents()
    torch.testing.assert_close(by_velocity.predict_noise(latents(), T, text), expected)
    rewrite(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(WeightsError, match="'sample'"):
        load_denoiser(str(copy), Place())


def test_latents_are_scaled_resized_and_differentiable(denoiser, copy):
    assert (denoiser.image_size, denoiser.latent_scale, denoiser.latent_channels) == (64, 4, 4)
    rgb = hints().requires_grad_()
    encoded = denoiser.encode_image(rgb)
    assert encoded.shape == (2, 4, 16, 16)
    encoded.square().sum().backward()
    assert (rgb.grad.abs().amax((1, 2, 3)) > 0).all()
    enlarged = hints().repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert denoiser.encode_image(enlarged).shape == (2, 4, 16, 16)
    rewrite(copy / "vae" / "config.json", scaling_factor=0.5)
    halved = load_denoiser(str(copy), Place())
    with torch.no_grad():
        torch.testing.assert_close(halved.encode_image(hints()), encoded.detach() / 2)
        torch.testing.assert_close(halved.decode_latents(encoded / 2), denoiser.decode_latents(encoded))
        assert denoiser.decode_latents(100 * encoded).aminmax() == (0, 1)


def test_concepts_survive_as_bytes_and_other_bytes_are_refused(denoiser):
    concept = denoiser.embed_prompts(CAPTIONS)
    rows = [Concept(concept.tokens[b : b + 1], concept.embeddings[b : b + 1]) for b in range(2)]
    files = [concept_to_bytes(row) for row in rows]
    read = concepts_from_bytes(files)
    assert torch.equal(read.tokens, concept.tokens)
    assert torch.equal(read.embeddings, concept.embeddings)
    for broken in (b"", files[0][:-1], b"\x10\0\0\0\0\0\0\0not a header, cut"):
        with pytest.raises(InputError, match="bad_concept"):
            concepts_from_bytes([files[1], broken])


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"tokens": torch.arange(16)},
        {"tokens": torch.zeros(16), "embeddings": torch.zeros(16, 64)},
        {"tokens": torch.arange(15), "embeddings": torch.zeros(16, 64)},
        {"tokens": torch.arange(16), "embeddings": torch.zeros(16)},
        {"tokens": torch.tensor(1), "embeddings": torch.tensor(1.0)},
        {"tokens": torch.arange(16), "embeddings": torch.zeros(16, 64, dtype=torch.int64)},
        {"tokens": torch.arange(16), "embeddings": torch.full((16, 64), torch.nan)},
    ],
    ids=["nothing", "no rows", "float tokens", "a row too many", "flat", "scalars", "integer rows", "nan"],
)
def test_sound_files_that_hold_no_concept_are_refused(tensors):
    from safetensors.torch import save

    with pytest.raises(InputError, match="bad_concept"):
        concepts_from_bytes([save(tensors)])


def test_concepts_of_different_lengths_make_no_batch():
    short, long = (Concept(torch.zeros(1, n, dtype=torch.int64), torch.zeros(1, n, 8)) for n in (16, 77))
    with pytest.raises(InputError, match="bad_concept"):
        concepts_from_bytes([concept_to_bytes(short), concept_to_bytes(long)])


def test_saved_weights_are_the_built_ones_in_half_precision_and_load_frozen(folder, tmp_path):
    networks = mini.build(3)
    before = networks.unet.conv_in.weight.clone()
    mini.save(networks, tmp_path)
    assert torch.equal(networks.unet.conv_in.weight, before)
    loaded = load_denoiser(str(tmp_path), Place())
    for ours, theirs in ((networks.unet, loaded.unet), (networks.text_encoder, loaded.text_encoder)):
        for built, read in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(built.half().float(), read)
            assert not read.requires_grad
    half = load_denoiser(str(folder), Place(dtype="bfloat16"))
    assert half.unet.dtype == torch.bfloat16
    assert half.predict_noise(latents(), T, half.encode_text(CAPTIONS), hints()).dtype == torch.float32


def test_the_same_seed_builds_the_same_networks_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second, other = mini.build(3), mini.build(3), mini.build(4)
    assert torch.equal(before, torch.get_rng_state())
    for field in dataclasses.fields(mini.Networks):
        pairs = zip(getattr(first, field.name).parameters(), getattr(second, field.name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.unet.conv_in.weight, other.unet.conv_in.weight)


def test_a_missing_folder_is_refused():
    with pytest.raises(WeightsError, match="weights_missing"):
        load_denoiser("no-such-weights", Place())


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_refused(copy, part):
    shutil.rmtree(copy / part)
    with pytest.raises(WeightsError, match=f"copy/{part}"):
        load_denoiser(str(copy), Place())


def test_a_missing_tensor_is_refused(copy):
    from safetensors.torch import load_file, save_file

    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_out.bias"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"conv_out\.bias"):
        load_denoiser(str(copy), Place())
    file.write_bytes(b"\x10\0\0\0\0\0\0\0not a header, cut")
    with pytest.raises(WeightsError, match="weights_broken"):
        load_denoiser(str(copy), Place())


def test_parts_of_different_models_are_refused(copy):
    from diffusers import ControlNetModel

    ControlNetModel(
        in_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
        conditioning_embedding_out_channels=(8, 16, 24, 32),  # 8 pixels per latent
    ).save_pretrained(copy / "controlnet")
    with pytest.raises(WeightsError, match="pixels of a hint per latent': 8"):
        load_denoiser(str(copy), Place())


@torch.no_grad()
def test_a_folder_laid_out_as_stable_diffusion_1_5_loads(tmp_path):
    """Its blocks, stride, 77 tokens, token numbers and schedule class, and the text encoder's former tensor names."""
    save_narrow(tmp_path)
    denoiser = load_denoiser(str(tmp_path), Place())
    assert (denoiser.image_size, denoiser.latent_scale) == (64, 8)
    torch.testing.assert_close(denoiser.alphas_cumprod[[0, 999]], torch.tensor([0.99915, 0.00466]), rtol=1e-3, atol=0)
    text, no_text = denoiser.encode_text(CAPTIONS, "front view of"), denoiser.encode_text(["", ""])
    assert text.shape == (2, 77, 32)
    encoded = denoiser.encode_image(hints())
    assert encoded.shape == denoiser.guided_noise(encoded, T, (text, no_text), hints(), 7.5).shape == (2, 4, 8, 8)


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original_name(name: str) -> str:
    """A tensor of diffusers' ControlNetModel as the ControlNet's authors name it (cldm.py @ed85cd1)."""
    part, *rest = name.split(".")
    match part, rest:
        case "time_embedding", [layer, kind]:
            return f"time_embed.{0 if layer == 'linear_1' else 2}.{kind}"
        case "conv_in", [kind]:
            return f"input_blocks.0.0.{kind}"
        case "controlnet_cond_embedding", [layer, *_, kind]:
            place = {"conv_in": 0, "conv_out": 14}.get(layer)
            return f"input_hint_block.{2 * (int(rest[1]) + 1) if place is None else place}.{kind}"
        case "controlnet_down_blocks", [place, kind]:
            return f"zero_convs.{place}.0.{kind}"
        case "controlnet_mid_block", [kind]:
            return f"middle_block_out.0.{kind}"
        case "mid_block", ["attentions", _, *inner]:
            return ".".join(["middle_block.1", *inner])
        case "mid_block", ["resnets", place, layer, kind]:
            return f"middle_block.{2 * int(place)}.{RESNET[layer]}.{kind}"
        case "down_blocks", [block, "downsamplers", _, _, kind]:
            return f"input_blocks.{3 * int(block) + 3}.0.op.{kind}"
        case "down_blocks", [block, "resnets", place, layer, kind]:
            return f"input_blocks.{3 * int(block) + int(place) + 1}.0.{RESNET[layer]}.{kind}"
        case "down_blocks", [block, "attentions", place, *inner]:
            return ".".join([f"input_blocks.{3 * int(block) + int(place) + 1}.1", *inner])
    raise AssertionError(name)


@pytest.mark.parametrize("kind", ["alone", "nested", "safetensors"])
def test_a_controlnet_as_its_authors_write_it_loads(tmp_path, kind):
    """Alone; inside a whole model under state_dict, as 3DFuse's injector is; as the one for Stable Diffusion 2.1 is."""
    from diffusers import ControlNetModel
    from safetensors.torch import save_file

    save_narrow(tmp_path, "2.1" if kind == "safetensors" else "1.5")
    network = ControlNetModel.from_pretrained(tmp_path / "controlnet")
    torch.manual_seed(0)
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.1)
    network.save_pretrained(tmp_path / "controlnet")
    expected = load_denoiser(str(tmp_path), Place())

    shutil.rmtree(tmp_path / "controlnet")
    (tmp_path / "controlnet").mkdir()
    tensors = {original_name(name): value for name, value in network.state_dict().items()}
    assert len(tensors) == len(network.state_dict())
    whole = {f"control_model.{name}": value for name, value in tensors.items()} | {"betas": torch.ones(3)}
    file = tmp_path / "controlnet" / "3DFuse_sparse_depth_injector.ckpt"
    if kind == "safetensors":
        save_file(tensors, file.with_suffix(".safetensors"))
    else:
        torch.save({"state_dict": whole} if kind == "nested" else tensors, file)
    found = load_denoiser(str(tmp_path), Place())
    text, noisy = found.encode_text(CAPTIONS), latents()[..., :8, :8]
    with torch.no_grad():
        ours, theirs = (denoiser.predict_noise(noisy, T, text, hints()) for denoiser in (found, expected))
        without = found.predict_noise(noisy, T, text)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, without, atol=1e-2)

    for written in (tmp_path / "controlnet").iterdir():
        written.unlink()
    del tensors["zero_convs.3.0.bias"]
    torch.save(tensors, file)
    with pytest.raises(WeightsError, match=r"(?s)injector\.ckpt is no ControlNet.*controlnet_down_blocks\.3\.bias"):
        load_denoiser(str(tmp_path), Place())
    torch.save([1, 2], file)
    with pytest.raises(WeightsError, match=r"injector\.ckpt does not hold tensors by name"):
        load_denoiser(str(tmp_path), Place())


def save_narrow(folder: Path, version: str = "1.5") -> None:
    """Stable Diffusion 1.5 or 2.1 and its ControlNet with narrow layers."""
    from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, UNet2DConditionModel
    from safetensors.torch import load_file, save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    levels = {
        "in_channels": 4,
        "block_out_channels": (16, 16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "layers_per_block": 2,
        "cross_attention_dim": 32,
        "attention_head_dim": 8 if version == "1.5" else (2, 2, 4, 4),
        "use_linear_projection": version != "1.5",
        "norm_num_groups": 8,
    }
    ups = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    UNet2DConditionModel(sample_size=8, out_channels=4, up_block_types=ups, **levels).save_pretrained(folder / "unet")
    ControlNetModel(**levels).save_pretrained(folder / "controlnet")
    AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_vocabulary()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
    ).save_pretrained(folder / "text_encoder")
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, file, {"format": "pt"})
    save_clip_tokenizer(folder / "tokenizer", 77)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True}
    PNDMScheduler(set_alpha_to_one=False, steps_offset=1, **schedule).save_pretrained(folder / "scheduler")

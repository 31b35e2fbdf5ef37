"""Folders of weights that are not what a loader understands: each is refused by the name of the file that says so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anything3d.backend import load_captioner
from anything3d.errors import MachineError, WeightsError
from anything3d.models import pointe
from anything3d.models.clip import load_clip
from anything3d.models.diffusion import load_denoiser
from anything3d.models.layout import check_diffusion, check_schedule
from anything3d.models.sam import load_sam
from anything3d.models.tensors import reading
from anything3d.models.weights import PACKAGED, Place
from anything3d.settings.caption import CaptionConfig

torch.set_num_threads(1)
SCHEDULE = "scheduler/scheduler_config.json"
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
SD_15 = {  # as it is published
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGED / name, tmp_path / "net"))


def rewrite(file: Path, **changes: object) -> None:
    """Settings with these changes; None takes one away."""
    settings = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        (SCHEDULE, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "'FlowMatch.*supported: DDPMScheduler, DDIM"),
        (SCHEDULE, {"_class_name": "EDMEulerScheduler"}, "EDMEuler"),
        (SCHEDULE, {"_class_name": "LCMScheduler"}, "LCM"),
        (SCHEDULE, {"_class_name": None}, "_class_name is None"),
        (SCHEDULE, {"beta_schedule": "exp"}, "'exp'; supported: linear, scaled_linear, squaredcos_cap_v2"),
        (SCHEDULE, {"beta_schedule": None}, "beta_schedule is None"),
        (SCHEDULE, {"num_train_timesteps": None}, "num_train_timesteps is None"),
        (SCHEDULE, {"num_train_timesteps": "1000"}, "num_train_timesteps is '1000'"),
        (SCHEDULE, {"beta_start": None}, "beta_start, beta_end are None, 0.012"),
        (SCHEDULE, {"beta_end": 1.5}, "1.5; supported: numbers between 0 and 1"),
        (SCHEDULE, {"trained_betas": [0.1] * 5}, "supported: 1000 numbers"),
        (SCHEDULE, {"use_flow_sigmas": True}, "flow"),
        (SCHEDULE, {"timestep_type": "continuous"}, "continuous"),
        ("unet/config.json", {"sample_size": None}, "sample_size is None; supported: latents along one side"),
        ("unet/config.json", {"sample_size": [16, 16]}, r"sample_size is \[16, 16\]"),
        ("unet/config.json", {"_class_name": "UNetSpatioTemporalConditionModel"}, "supported: UNet2DConditionModel"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time'.*Stable Diff"),
        ("unet/config.json", {"class_embed_type": "projection"}, "class_embed_type"),
        ("unet/config.json", {"encoder_hid_dim_type": "text_image_proj"}, "encoder_hid_dim_type"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim"),
        ("unet/config.json", {"in_channels": 9}, "in_channels is 9, out_channels is 4.*inpainting"),
        ("unet/config.json", {"cross_attention_dim": [64, 64]}, "cross_attention_dim"),
        ("unet/config.json", {"quantization_config": {"load_in_4bit": True}}, "quantized"),
        ("vae/config.json", {"shift_factor": 0.1159}, "shift_factor is 0.1159; supported: latents that are scaled"),
        ("vae/config.json", {"latents_mean": [0.1] * 4}, "latents_mean"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny'; supported: AutoencoderKL"),
        ("text_encoder/config.json", {"model_type": "t5"}, "model_type is 't5'; supported: clip_text_model"),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}, "'T5Tokenizer'; supported: CLIPTok"),
        ("tokenizer/tokenizer_config.json", {"vocab_file": "/elsewhere/vocab.json"}, "vocab_file names a file"),
        ("controlnet/config.json", {"_class_name": "ControlNetUnionModel"}, "supported: ControlNetModel"),
        ("controlnet/config.json", {"conditioning_channels": 1}, "conditioning_channels is 1; supported: 3"),
        ("controlnet/config.json", {"global_pool_conditions": True}, "global_pool_conditions"),
    ],
)
def test_a_setting_that_is_not_understood_is_refused_with_its_file(tmp_path, file, changes, says):
    folder = copy("diffusion", tmp_path)
    rewrite(folder / file, **changes)
    with pytest.raises(WeightsError, match=rf"weights_unsupported: {folder}/{file}: .*{says}"):
        load_denoiser(str(folder), Place())


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2"])
def test_other_families_are_refused_by_their_parts(tmp_path, part):
    folder = copy("diffusion", tmp_path)
    (folder / part).mkdir()
    with pytest.raises(WeightsError, match=f"net/{part}: a model with .*Stable Diffusion 1.x or 2.x"):
        load_denoiser(str(folder), Place())


@pytest.mark.parametrize("content", ["{", "[]", "null", ""])
def test_settings_that_are_no_json_object_are_refused_by_name(tmp_path, content):
    folder = copy("diffusion", tmp_path)
    (folder / SCHEDULE).write_text(content)
    with pytest.raises(WeightsError, match=f"weights_broken: {folder}/{SCHEDULE}"):
        check_diffusion(folder)


def test_a_flow_model_as_it_is_published_is_refused_and_predictions_by_their_name(tmp_path):
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(FLOW))
    with pytest.raises(WeightsError, match="FlowMatchEulerDiscreteScheduler"):
        check_schedule(file)
    file.write_text(json.dumps(SD_15 | {"prediction_type": "flow_prediction"}))
    with pytest.raises(WeightsError, match=r"scheduler_config\.json: prediction_type is 'flow_prediction'"):
        check_schedule(file)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "linear"},
        {"_class_name": "UniPCMultistepScheduler", "beta_schedule": "squaredcos_cap_v2"},
        {"_class_name": "DPMSolverMultistepScheduler", "trained_betas": [0.01] * 1000},
    ],
)
def test_noise_levels_are_those_of_the_folders_own_scheduler(tmp_path, changes):
    import diffusers

    folder = copy("diffusion", tmp_path)
    settings = SD_15 | changes
    (folder / SCHEDULE).write_text(json.dumps(settings))
    check_schedule(folder / SCHEDULE)
    ddpm = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")  # what `load_denoiser` takes them from
    theirs = getattr(diffusers, settings["_class_name"]).from_pretrained(folder / "scheduler")
    torch.testing.assert_close(ddpm.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5, atol=1e-6)


def rename(folder: Path, middle: str) -> None:
    for path in list(folder.rglob("*.safetensors")):
        path.rename(path.with_name(path.name.replace(".", f".{middle}.", 1)))


def pickle(folder: Path) -> None:
    for path in list(folder.rglob("*.safetensors")):
        stem = "pytorch_model" if path.stem == "model" else path.stem
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()


def caption(name: str, place: Place) -> object:
    return load_captioner(CaptionConfig(weights=name), place).decoder


@pytest.mark.parametrize("change", [pickle, lambda folder: rename(folder, "fp16")], ids=["bin", "fp16"])
@pytest.mark.parametrize(("name", "load"), [("diffusion", load_denoiser), ("clip", load_clip), ("blip", caption)])
def test_pickles_and_the_variant_of_float16_load_as_the_same_tensors(tmp_path, change, name, load: Callable):
    folder = copy(name, tmp_path)
    change(folder)
    networks = [load(where, Place()) for where in (name, str(folder))]
    if name == "diffusion":
        networks = [network.unet for network in networks]
    elif name == "clip":
        networks = [network.vision for network in networks]
    for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "load", "part"), [("diffusion", load_denoiser, "unet"), ("clip", load_clip, "")])
def test_tensors_under_another_name_are_told_with_what_is_supported(tmp_path, name, load, part):
    folder = copy(name, tmp_path)
    rename(folder / part, "non_ema")
    with pytest.raises(WeightsError, match=r"there: .*non_ema\.safetensors.*supported: .*fp16\.safetensors, .*\.bin"):
        load(str(folder), Place())


def test_a_pickle_with_code_is_not_run(tmp_path):
    folder = copy("diffusion", tmp_path)
    pickle(folder / "unet")
    torch.save({"a": shutil.rmtree}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"weights_broken: .*net/unet"):
        load_denoiser(str(folder), Place())


def test_a_shard_that_lies_elsewhere_is_refused(tmp_path):
    folder = copy("diffusion", tmp_path)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(folder / "away.safetensors")
    file.with_name(f"{file.name}.index.json").write_text(json.dumps({"weight_map": {"a": "../away.safetensors"}}))
    with pytest.raises(WeightsError, match=r"index\.json names \.\./away\.safetensors, which is not beside it"):
        load_denoiser(str(folder), Place())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"do_normalize": False}, "do_normalize is False"),
        ({"resample": 2}, "resample is 2; supported: 3, bicubic"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"size": [64, 64]}, "size is"),
        ({"crop_size": {"height": 64, "width": 32}}, "no square"),
        ({"image_mean": "x"}, "three numbers"),
    ],
)
def test_pictures_that_are_prepared_in_another_way_are_refused(tmp_path, changes, says):
    folder = copy("clip", tmp_path)
    rewrite(folder / "preprocessor_config.json", **changes)
    with pytest.raises(WeightsError, match=rf"preprocessor_config\.json: .*{says}"):
        load_clip(str(folder), Place())


@pytest.mark.parametrize(
    ("name", "load", "changes", "says"),
    [
        ("clip", load_clip, {"model_type": "siglip"}, "'siglip'; supported: clip"),
        ("clip", load_clip, {"vision_config": 5}, "vision_config"),
        ("clip", load_clip, {"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ("blip", caption, {"model_type": "blip-2"}, "'blip-2'; supported: blip"),
        ("sam", load_sam, {"image_size": "64"}, "'64' is no size"),
        ("sam", load_sam, {"global_blocks": [0.5]}, "no size"),
        ("sam", load_sam, {"depth": True}, "True is no size"),
        ("pointe", pointe.load_point_denoiser, {"config": 5}, "config is 5"),
    ],
)
def test_settings_of_another_network_or_of_wrong_types_are_refused(tmp_path, name, load, changes, says):
    folder = copy(name, tmp_path)
    rewrite(folder / "config.json", **changes)
    with pytest.raises(WeightsError, match=says):
        load(str(folder), Place())


@pytest.mark.parametrize("changes", [{"heads": 7}, {"width": 0}, {"layers": -1}, {"heads": True}])
def test_sizes_of_point_e_that_make_no_network_are_refused(tmp_path, changes):
    folder = copy("pointe", tmp_path)
    entry = json.loads((folder / "config.json").read_text())
    rewrite(folder / "config.json", config=entry["config"] | changes)
    with pytest.raises(WeightsError, match=f"weights_config: .*{next(iter(changes))}"):
        pointe.load_point_denoiser(str(folder), Place())


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), OSError(116, "Stale file handle"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")])  # fmt: skip
def test_a_fault_of_the_machine_is_not_blamed_on_the_files(error):
    with pytest.raises(MachineError), reading(Path("net")):
        raise error
    with pytest.raises(WeightsError), reading(Path("net")):
        raise FileNotFoundError(2, "No such file or directory")

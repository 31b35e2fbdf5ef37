"""The settings in a folder of weights, read before anything is built. What is not understood is refused by name.

diffusers and transformers pass over settings that they do not know, and take defaults for those that are missing. So a
model of another family would load, and mean something else.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from anything3d.errors import WeightsError

SCHEDULERS = (  # whose networks predict noise or velocity at the discrete times of a beta schedule
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "UniPCMultistepScheduler",
)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction")
UNCONDITIONAL = (  # settings of networks that are told more than text and time, all of them null or false where not
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "time_cond_proj_dim",
    "dual_cross_attention",
    "global_pool_conditions",
)
LATENT_SHIFTS = ("shift_factor", "latents_mean", "latents_std")
OTHER_PARTS = {  # of families that are not Stable Diffusion 1 or 2
    "transformer": "a diffusion transformer",
    "text_encoder_2": "two text encoders",
    "text_encoder_3": "three text encoders",
    "prior": "a prior",
}
FAMILY = "Stable Diffusion 1.x or 2.x as diffusers lays it out: unet, vae, text_encoder, tokenizer, scheduler"
SHAP_E = "openai/shap-e-img2img as diffusers lays it out: prior, image_encoder, image_processor, scheduler, renderer"
SHAP_E_SCHEDULE = {"_class_name": "HeunDiscreteScheduler", "beta_schedule": "exp", "prediction_type": "sample"}
BICUBIC = 3  # of PIL's filters
TOKEN_FILES = ("vocab_file", "merges_file", "tokenizer_file")  # which a tokenizer's settings could point elsewhere


def read_settings(path: Path) -> dict[str, object]:
    """The settings in a JSON file.

    Raises: WeightsError("weights_broken") if it is missing or no JSON object.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError("weights_broken", f"{path}: {error}; download it again") from error
    if not isinstance(settings, dict):
        raise WeightsError("weights_broken", f"{path} is no JSON object; download it again")
    if quantization := settings.get("quantization_config"):
        raise _unsupported(path, f"the weights are quantized: {str(quantization)[:80]}", "float32, float16 or bfloat16")
    return settings


def check_tokenizer_settings(folder: Path, classes: Collection[str]) -> None:
    """Raises: WeightsError if the tokenizer is of another class, or its files lie elsewhere."""
    path = folder / "tokenizer_config.json"
    settings = read_settings(path) if path.exists() else {}
    known = settings.get("tokenizer_class")
    if known is not None and str(known).removesuffix("Fast") not in classes:
        raise _unsupported(path, f"tokenizer_class is {known!r}", ", ".join(classes))
    if elsewhere := [name for name in TOKEN_FILES if settings.get(name) is not None]:
        raise _unsupported(path, f"{elsewhere[0]} names a file", "the files of the folder, under their usual names")


def check_model_type(path: Path, model_types: Collection[str]) -> dict[str, object]:
    """The settings of a transformers network. Raises: WeightsError if it is of another family than `model_types`."""
    settings = read_settings(path)
    if settings.get("model_type") not in model_types:
        raise _unsupported(path, f"model_type is {settings.get('model_type')!r}", ", ".join(model_types))
    return settings


def check_diffusion(folder: Path) -> None:
    """Whether a diffusers folder is of the family that `load_denoiser` understands.

    Raises: WeightsError that names the file, what it says and what is supported.
    """
    for part, what in OTHER_PARTS.items():
        if (folder / part).is_dir():
            raise _unsupported(folder / part, f"a model with {what}", FAMILY)
    unet, vae = _of_class(folder / "unet", "UNet2DConditionModel"), _of_class(folder / "vae", "AutoencoderKL")
    _check_network(folder / "unet" / "config.json", unet)
    _check_unet(folder / "unet" / "config.json", unet)
    _check_latents(folder / "vae" / "config.json", vae)
    if (folder / "controlnet" / "config.json").exists():
        path, settings = folder / "controlnet" / "config.json", _of_class(folder / "controlnet", "ControlNetModel")
        _check_network(path, settings)
        if settings.get("conditioning_channels", 3) != 3:
            stated = f"conditioning_channels is {settings['conditioning_channels']!r}"
            raise _unsupported(path, stated, "3, a picture of depth")
    check_model_type(folder / "text_encoder" / "config.json", ("clip_text_model",))
    check_tokenizer_settings(folder / "tokenizer", ("CLIPTokenizer",))
    check_schedule(folder / "scheduler" / "scheduler_config.json")


def check_taesd(folder: Path) -> None:
    """Whether a diffusers folder is a TAESD whose latents are only scaled. Raises: WeightsError."""
    _check_latents(folder / "config.json", _of_class(folder, "AutoencoderTiny"))


def check_shap_e(folder: Path) -> None:
    """Whether a diffusers folder is a Shap-E that sees images, sampled as it was trained. Raises: WeightsError."""
    if not (folder / "image_encoder").is_dir():
        raise _unsupported(folder, "there is no image_encoder, as in the Shap-E that reads texts", SHAP_E)
    _of_class(folder / "prior", "PriorTransformer")
    _of_class(folder / "shap_e_renderer", "ShapERenderer")
    check_model_type(folder / "image_encoder" / "config.json", ("clip_vision_model",))
    path = folder / "scheduler" / "scheduler_config.json"
    settings = read_settings(path)
    stated = {name: settings.get(name) for name in SHAP_E_SCHEDULE}
    if stated != SHAP_E_SCHEDULE:
        raise _unsupported(path, f"it has {stated}", str(SHAP_E_SCHEDULE))


def check_schedule(path: Path) -> None:
    """Whether DDPM's noise levels, computed from these settings, are those that the network was trained with.

    Raises: WeightsError if not, or if the network predicts neither noise nor velocity.
    """
    settings = read_settings(path)
    if settings.get("_class_name") not in SCHEDULERS:
        raise _unsupported(path, f"_class_name is {settings.get('_class_name')!r}", ", ".join(SCHEDULERS))
    if settings.get("use_flow_sigmas") or settings.get("timestep_type", "discrete") != "discrete":
        raise _unsupported(path, "the times are continuous, or those of a flow", "discrete times of a beta schedule")
    prediction = settings.get("prediction_type", PREDICTIONS[0])  # files from before there was another one lack it
    if prediction not in PREDICTIONS:
        raise _unsupported(path, f"prediction_type is {prediction!r}", f"eps or v ({', '.join(PREDICTIONS)})")
    steps, betas = settings.get("num_train_timesteps"), settings.get("trained_betas")
    if type(steps) is not int or steps < 2:
        raise _unsupported(path, f"num_train_timesteps is {steps!r}", "a whole number of 2 or more, as 1000")
    if betas is not None:
        sound = isinstance(betas, list) and len(betas) == steps and all(_is_beta(beta) for beta in betas)
        if not sound:
            raise _unsupported(path, f"trained_betas is {str(betas)[:60]}", f"{steps} numbers between 0 and 1")
        return
    schedule = settings.get("beta_schedule")
    if schedule not in BETA_SCHEDULES:
        raise _unsupported(path, f"beta_schedule is {schedule!r}", ", ".join(BETA_SCHEDULES))
    ends = [settings.get(name) for name in ("beta_start", "beta_end")]
    if schedule != "squaredcos_cap_v2" and not all(_is_beta(end) for end in ends):
        raise _unsupported(path, f"beta_start, beta_end are {ends[0]!r}, {ends[1]!r}", "numbers between 0 and 1")


def check_pictures(path: Path, settings: Mapping[str, object]) -> None:
    """Whether an image processor does what `clip.Preprocessor` does. Raises: WeightsError."""
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if settings.get(name, True) is not True:
            raise _unsupported(path, f"{name} is {settings[name]!r}", "true")
    if settings.get("resample", BICUBIC) != BICUBIC:
        raise _unsupported(path, f"resample is {settings['resample']!r}", f"{BICUBIC}, bicubic")
    factor = settings.get("rescale_factor", 1 / 255)
    if type(factor) is not float or not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise _unsupported(path, f"rescale_factor is {factor!r}", "1 / 255")


def _check_network(path: Path, settings: Mapping[str, object]) -> None:
    for name in UNCONDITIONAL:
        if settings.get(name):
            raise _unsupported(path, f"{name} is {settings[name]!r}", f"a network of text and time: {FAMILY}")
    if type(width := settings.get("cross_attention_dim")) is not int:
        raise _unsupported(path, f"cross_attention_dim is {width!r}", "one whole number, as 768")


def _check_unet(path: Path, settings: Mapping[str, object]) -> None:
    inputs, outputs, size = (settings.get(name) for name in ("in_channels", "out_channels", "sample_size"))
    if type(inputs) is not int or inputs != outputs:
        stated = f"in_channels is {inputs!r}, out_channels is {outputs!r}"
        raise _unsupported(path, stated, "as many in as out: no inpainting, upscaling, depth or editing model")
    if type(size) is not int or size < 1:
        raise _unsupported(path, f"sample_size is {size!r}", "latents along one side, as 64 for pictures of 512 px")


def _check_latents(path: Path, autoencoder: Mapping[str, object]) -> None:
    for name in LATENT_SHIFTS:
        if autoencoder.get(name):
            raise _unsupported(path, f"{name} is {str(autoencoder[name])[:80]}", "latents that are scaled only")


def _of_class(folder: Path, name: str) -> dict[str, object]:
    """The settings of a diffusers network, which must be of this class."""
    settings = read_settings(folder / "config.json")
    if settings.get("_class_name") != name:
        raise _unsupported(folder / "config.json", f"_class_name is {settings.get('_class_name')!r}", name)
    return settings


def _is_beta(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def _unsupported(path: Path, stated: str, supported: str) -> WeightsError:
    return WeightsError("weights_unsupported", f"{path}: {stated}; supported: {supported}")


def check_fit(
    networks: Sequence[Mapping], latent_channels: int, latent_scale: int, text_width: int, folder: Path
) -> None:
    """UNet and ControlNet take the VAE's latents, the text encoder's text and hints as large as the image.

    Raises: WeightsError if one does not.
    """
    for config in networks:
        pairs = {"in_channels": latent_channels, "cross_attention_dim": text_width}
        stated = {name: config[name] for name in pairs}
        if "conditioning_embedding_out_channels" in config:
            pairs["pixels of a hint per latent"] = latent_scale
            stated["pixels of a hint per latent"] = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
        if stated != pairs:
            raise WeightsError(
                "weights_mismatch",
                f"{folder}: {config['_class_name']} has {stated}, the other parts need {pairs}; "
                "take all parts from one model family",
            )

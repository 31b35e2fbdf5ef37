"""Every number among the settings, at values that nobody tries in earnest: it is refused before a run, or it works.

What is allowed is run on one toy object by the verb whose setting it is, one setting at a time. Not run here are the
settings of `index`, `resources` and `units`, which are the pipeline's and Ray's own.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import torch
from annotated_types import Interval

from anything3d.backend import load_captioner, load_lifter
from anything3d.errors import ConfigError, InputError
from anything3d.invert import Inverter
from anything3d.mesh import extract
from anything3d.models.clip import load_clip
from anything3d.models.diffusion import load_denoiser
from anything3d.models.dino import load_dino
from anything3d.models.sam import load_sam
from anything3d.models.shap_e import load_shap_e
from anything3d.models.weights import Place
from anything3d.photo.image import decode_image, encode_png
from anything3d.quality.looks import Reconstruction
from anything3d.reconstruct import Distiller, Evidence
from anything3d.score import Scorer
from anything3d.segment import Segmenter
from anything3d.settings.reconstruct import FieldConfig
from anything3d.shap_e import ShapEMeshes
from anything3d.space.camera import orbit
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from pipeline.config import Config, load
from tests import shap_e as toy

# diffusers' sampler lets numpy copy a tensor in the way that numpy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
HUGE = 10**18
QUICK = (
    *("segment.crop_size=32", "segment.grid_points=2", "segment.source=sam-grid", "segment.max_edges=4"),
    *("segment.min_predicted_iou=0", "segment.min_stability=0", "segment.min_area_px=1"),
    *("caption.max_tokens=4", "invert.steps=1", "invert.samples=1", "invert.held_out=1"),
    *("lift.candidates=1", "lift.steps=2", "lift.upsampler_steps=1", "lift.azimuths=2", "lift.elevations=2"),
    *("lift.draft_match_px=8", "lift.match_px=8"),
    *("reconstruct.steps=2", "reconstruct.sds.render_size=16", "reconstruct.field.resolution=8"),
    *("reconstruct.render.samples=8", "mesh.resolution=8"),
    *("score.size_px=16", "score.views=1", "score.points=64", "score.samples=8"),
)
WITH = {  # settings without which another one has no effect
    "invert.lora.": ("invert.lora.steps=1",),
    "reconstruct.sjc.": ("reconstruct.backend=sjc", "reconstruct.sds.render_size=64"),  # nothing of the other method
    "reconstruct.shap_e.": (
        "reconstruct.backend=shap-e",
        "reconstruct.shap_e.steps=1",
        "reconstruct.shap_e.resolution=8",
    ),
    "caption.top_p": ("caption.decoding=nucleus",),
    "caption.samples": ("caption.decoding=nucleus",),
}


def numbers(section=None, prefix: str = "") -> Iterator[tuple[str, object, list[Interval]]]:
    """Key, default, and the ranges of all numbers among the settings; two for a pair of numbers."""
    section = section or Config()
    hints = get_type_hints(type(section), include_extras=True)
    for entry in fields(section):
        value, hint, key = getattr(section, entry.name), hints[entry.name], f"{prefix}{entry.name}"
        if is_dataclass(value):
            yield from numbers(value, f"{key}.")
        elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
            parts = get_args(hint) if isinstance(value, tuple) else [hint]
            yield key, value, [interval(part) for part in parts]


def interval(hint) -> Interval:
    assert get_origin(hint) is Annotated, f"{hint} declares no range"
    (found,) = (part for part in get_args(hint)[1:] if isinstance(part, Interval))
    return found


def settings(key: str, default, number: object) -> list[str]:
    """key=number; of a pair, each of the two in turn."""
    if not isinstance(default, tuple):
        return [f"{key}={number}"]
    low, high = default
    return [f"{key}=[{number}, {high}]", f"{key}=[{low}, {number}]"]


def unusual() -> Iterator[str]:
    """-1, 0, huge, NaN, infinity, and the lowest number that is in the range."""
    for key, default, ranges in numbers():
        lowest = {limits.ge for limits in ranges if limits.ge is not None}
        for number in (-1, 0, HUGE, *(lowest - {-1, 0}), "nan", "inf", "-inf"):
            yield from settings(key, default, number)


def refusal(setting: str) -> str | None:
    """The error of `load`; None if the setting is allowed."""
    try:
        load([], [*QUICK, *extra(setting), setting])
    except ConfigError as error:
        return str(error)
    return None


@cache
def verdicts() -> dict[str, str | None]:
    return {setting: refusal(setting) for setting in unusual()}


def allowed() -> list[str]:
    return [setting for setting, error in verdicts().items() if error is None]


def extra(setting: str) -> tuple[str, ...]:
    return next((others for begin, others in WITH.items() if setting.startswith(begin)), ())


def test_every_number_has_a_lowest_and_a_highest_value():
    """So NaN, infinity and what nobody means are refused, and docs/settings.md says what is allowed."""
    open_ended = [
        key
        for key, _, ranges in numbers()
        for limits in ranges
        if (limits.ge is None and limits.gt is None) or (limits.le is None and limits.lt is None)
    ]
    assert open_ended == []


def test_what_is_refused_has_one_code_and_names_its_key():
    refused = {setting: error for setting, error in verdicts().items() if error is not None}
    assert len(refused) > 500
    for setting, error in refused.items():
        name = setting.split("=")[0].rsplit(".", 1)[-1]
        assert error.startswith("setting: "), error
        assert name in error, error
    assert [setting for setting in allowed() if any(word in setting for word in ("nan", "inf", str(HUGE)))] == [
        f"seed={HUGE}"
    ]


@cache
def network(load_it, name: str):
    torch.set_num_threads(1)
    return load_it(name, Place())


@cache
def captioner():
    return load_captioner(Config().caption, Place())


@cache
def lifter():
    return load_lifter(Config().lift, Place())


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1)]


def crop() -> torch.Tensor:
    rgba = torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    rgba[:, 3] = 0
    rgba[:, 3, 16:48, 16:48] = 1
    return rgba


def camera():
    return orbit(*(torch.tensor([value]) for value in (30.0, 20.0, 2.0, 39.6)))


def ball() -> Cloud:
    points = torch.randn(1, 512, 3, generator=torch.Generator().manual_seed(0))
    points = points / points.norm(dim=-1, keepdim=True) * 0.5
    return Cloud(points, torch.full_like(points, 0.5))


@cache
def solid() -> Field:
    return Field.from_cloud(ball(), FieldConfig(resolution=16))


def run_segment(config):
    photo = (torch.rand(48, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    with suppress(InputError):  # too large
        photo = decode_image(encode_png(photo), config.limits)
    (outcomes,) = Segmenter(config, network(load_sam, "sam"))([photo], [[]])
    return outcomes[:1]


def run_caption(config):
    return replace(captioner(), config=config)(crop(), generators())


def run_invert(config):
    return Inverter(network(load_denoiser, "diffusion"), config)(crop(), ["a red ball"], generators())


def run_lift(config):
    return replace(lifter(), config=config)(crop(), generators())


@cache
def shap_e():
    with TemporaryDirectory() as folder:
        return load_shap_e(str(toy.write(Path(folder))), Place())


def run_reconstruct(config):
    if config.backend == "shap-e":
        return ShapEMeshes(config.shap_e, shap_e())(Evidence(crop()), generators(), [])
    denoiser = network(load_denoiser, "diffusion")
    evidence = Evidence(crop(), denoiser.embed_prompts(["a red ball"]), ball(), camera())
    clip = None if config.max_fall else network(load_clip, "clip")  # it takes longer than the two steps
    reconstructor = Distiller(config, denoiser, clip)
    *_, state = reconstructor.run(evidence, generators())
    return reconstructor.finish(evidence, state)


def run_mesh(config):
    return [extract(solid().grids(0), config)]


def run_score(config):
    made = Reconstruction(
        crop()[0], torch.zeros_like(crop()[0, 3]), camera(), ball(), solid(), extract(solid().grids(0), Config().mesh)
    )
    return Scorer(config, network(load_clip, "clip"), network(load_dino, "dino"))([made], [None], generators())


RUN = {
    "segment": run_segment,
    "caption": run_caption,
    "invert": run_invert,
    "lift": run_lift,
    "reconstruct": run_reconstruct,
    "mesh": run_mesh,
    "score": run_score,
}


@pytest.mark.parametrize("stage", RUN)
def test_what_is_allowed_runs(stage):
    settings = [setting for setting in allowed() if setting.startswith(f"{stage}.")]
    assert settings
    for setting in settings:
        section = getattr(load([], [*QUICK, *extra(setting), setting]), stage)
        assert len(RUN[stage](section)) == 1, setting

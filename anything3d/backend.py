"""A backend is one way to do a stage: which model, or which method. This says what a run has to know of it.

There is a table for each stage that has backends: the word of the setting `<stage>.backend`, and the Backend that it
means. This file imports no torch: the code of a backend is imported when the backend is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from anything3d.models.weights import Place
from anything3d.settings.caption import CaptionConfig
from anything3d.settings.lift import LiftConfig
from anything3d.settings.reconstruct import CHECKPOINT_EVERY, MAX_POINTS, ReconstructConfig

if TYPE_CHECKING:
    from anything3d.caption import Captioner
    from anything3d.distil.evidence import Reconstructor
    from anything3d.lift import Lifter

BATCH_CLOUDS = 16  # drafts in one call of Point-E's base network


def _nobody(line: str) -> None:
    """Who hears of a backend that nobody listens to."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What `resources.reconstruct` says of a backend. It changes memory and time, and no result."""

    max_points: int = MAX_POINTS  # of rays that are rendered at once
    checkpoint_every: int = CHECKPOINT_EVERY  # steps between two checkpoints
    max_seconds: float = 0.0  # of one object, for a backend that ends itself what takes longer; 0: no limit
    say: Callable[[str], None] = _nobody  # hears what a program beside this one says


Need = Literal["crop", "photo", "caption", "concept", "cloud"]  # what a backend may ask of an object
Config = TypeVar("Config")  # the stage's section
Verb = TypeVar("Verb")  # what the stage calls: a Captioner, a Lifter, a Reconstructor


@dataclass(frozen=True, slots=True)
class Backend(Generic[Config, Verb]):
    """What a backend needs, and how it is loaded. What no backend of a run needs is not computed."""

    weights: Callable[[Config], tuple[str, ...]]  # names of the weights that it loads; it must not read a file
    load: Callable[..., Verb]  # of the stage's section, the Place, and what resources.<stage> says
    needs: tuple[Need, ...] = ("crop",)  # of every object; `caption` and `lift` are given the crop alone
    licence: Callable[[Config], str] = lambda config: ""  # of its own code, on what it makes; several stand with "; "
    named: Callable[[Config], str] = lambda config: ""  # what more than its word says which model it is
    ends_itself: bool = False  # what takes too long; then its stage does not


def load_captioner(config: CaptionConfig, place: Place) -> "Captioner":
    """What `config.backend` names, ready to be called. Raises: as its `load`."""
    return CAPTIONERS[config.backend].load(config, place)


def load_lifter(config: LiftConfig, place: Place, batch_clouds: int = BATCH_CLOUDS) -> "Lifter":
    """What `config.backend` names, ready to be called with `batch_clouds` drafts at a time. Raises: as its `load`."""
    return LIFTERS[config.backend].load(config, place, batch_clouds)


def load_reconstructor(config: ReconstructConfig, place: Place, pace: Pace = Pace()) -> "Reconstructor":
    """What `config.backend` names, ready to be called. Raises: as its `load`."""
    return RECONSTRUCTORS[config.backend].load(config, place, pace)


def _blip(config: CaptionConfig, place: Place) -> "Captioner":
    from anything3d.caption import load_blip

    return load_blip(config, place)


def _point_e(config: LiftConfig, place: Place, batch_clouds: int) -> "Lifter":
    from anything3d.lift import load_point_e

    return load_point_e(config, place, batch_clouds)


def _distiller(config: ReconstructConfig, place: Place, pace: Pace) -> "Reconstructor":
    from anything3d.reconstruct import load_distiller

    return load_distiller(config, place, pace.max_points, pace.checkpoint_every)


def _external(config: ReconstructConfig, place: Place, pace: Pace) -> "Reconstructor":
    from anything3d.external.backend import External

    return External(config.external, place.device, pace.max_seconds, pace.say)


def _shap_e(config: ReconstructConfig, place: Place, pace: Pace) -> "Reconstructor":
    from anything3d.shap_e import load_shap_e_meshes

    return load_shap_e_meshes(config.shap_e, place)


def _of_distillation(config: ReconstructConfig) -> tuple[str, ...]:
    """The denoiser, and what else is used."""
    judge = (config.clip_weights,) if config.judges else ()
    encoder = (config.sds.encoder_weights,) if config.sds.encoder == "taesd" else ()
    return config.weights, *judge, *encoder


_DISTILLED: "Backend[ReconstructConfig, Reconstructor]" = Backend(
    weights=_of_distillation,
    load=_distiller,
    needs=("crop", "concept", "cloud"),
)
CAPTIONERS: "Mapping[str, Backend[CaptionConfig, Captioner]]" = {
    "blip": Backend(weights=lambda config: (config.weights,), load=_blip),
}
LIFTERS: "Mapping[str, Backend[LiftConfig, Lifter]]" = {
    "point-e": Backend(
        weights=lambda config: (config.weights, config.upsampler_weights, config.clip_weights), load=_point_e
    ),
}
RECONSTRUCTORS: "Mapping[str, Backend[ReconstructConfig, Reconstructor]]" = {
    "sds": _DISTILLED,
    "sjc": _DISTILLED,
    "shap-e": Backend(weights=lambda config: (config.shap_e.weights,), load=_shap_e),
    "external": Backend(
        weights=lambda config: (),
        load=_external,
        licence=lambda config: config.external.licence,
        named=lambda config: config.external.version,
        ends_itself=True,
    ),
}
BACKENDS: Mapping[str, Mapping[str, Backend[Any, Any]]] = {  # stage -> what its setting `backend` can be
    "caption": CAPTIONERS,
    "lift": LIFTERS,
    "reconstruct": RECONSTRUCTORS,
}

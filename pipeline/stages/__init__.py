"""What a stage is, which stages there are, in the order in which a datum travels, and which of them a run needs.

A stage file imports its algorithm only when its stage is built. So this table imports no network and no torch.
"""

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

from anything3d.backend import BACKENDS
from anything3d.models.weights import Place, digest, licence
from pipeline.batch import Checkpoint, Outcome
from pipeline.cell import Recipe
from pipeline.config import Config, fingerprint
from pipeline.remark import remark
from pipeline.stages.caption import CaptionStage
from pipeline.stages.index import IndexStage
from pipeline.stages.invert import InvertStage
from pipeline.stages.lift import LiftStage
from pipeline.stages.mesh import MeshStage
from pipeline.stages.reconstruct import ReconstructStage
from pipeline.stages.score import ScoreStage
from pipeline.stages.segment import SegmentStage
from pipeline.unit import SOURCES, Unit


class Stage(Protocol):
    """The whole contract of a stage: one verb of the pipeline, as a class that has exactly these members.

    `reads` and `weights` are asked before anything starts. They must not load or read a file. Then every actor of the
    stage builds one instance and calls it with one batch of items after the other.
    """

    name: str  # the verb; also the name of its section in Config and in Resources
    version: int  # count it up when a change of the code gives other rows for the same settings
    record: type[Any]  # the class of the rows that it writes; its first field is the row's id

    def __init__(self, config: Config, place: Place) -> None:
        """Load the networks to `place`, and keep what a call needs.

        Raises: ConfigError; WeightsError. Both end the run.
        """

    @staticmethod
    def reads(config: Config) -> tuple[str, ...]:
        """What it reads under these settings: names of earlier stages, then of `SOURCES` (pipeline/unit.py).

        An item is a tuple of one record of every stage that is named, in this order. An item that one of these stages
        rejected does not arrive. The record of `index` is that of the object's photo. The sources are in `unit.inputs`.
        A stage that reads no stage gets ids as items.
        """

    @staticmethod
    def weights(config: Any) -> tuple[str, ...]:  # noqa: ANN401 - each stage names the class of its own section
        """Names of the weights that it loads under `config`, which is its own section of Config."""

    def __call__(self, items: Sequence[Any], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]:
        """One outcome for each item, in order: its rows (RejectRecords among them), or the error that rejects it.

        The rows of an item must not depend on the other items of the batch. A long call saves its inner state to
        `checkpoint`, and begins with what `checkpoint` has. It tells `checkpoint` every step, which costs nothing. A
        stage catches no error of memory, storage, network or device: these are no verdict on an item, and
        `pipeline/batch.py` calls the stage again.
        """


STAGES: tuple[type[Stage], ...] = (
    IndexStage,
    SegmentStage,
    CaptionStage,
    InvertStage,
    LiftStage,
    ReconstructStage,
    MeshStage,
    ScoreStage,
)
# The stages that every run wants. Any other stage runs only if one that runs reads it.
LAST = ("score",)
BY_NAME = {stage.name: stage for stage in STAGES}


def needed(config: Config) -> list[type[Stage]]:
    """The stages that run under `config`, in order: the last ones and whatever these read, directly or not."""
    names = set(LAST)
    for stage in reversed(STAGES):
        if stage.name in names:
            names.update(stage.reads(config))
    return [stage for stage in STAGES if stage.name in names]


def recipes(config: Config) -> dict[str, Recipe]:
    """The recipe of every stage that runs under `config`, by name, in order."""
    made: dict[str, Recipe] = {}
    for stage in needed(config):
        reads = stage.reads(config)
        upstream = [made[name] for name in reads if name not in SOURCES]
        section = getattr(config, stage.name)
        weights = {name: digest(name, config.place()) for name in stage.weights(section)}
        backend = BACKENDS[stage.name][section.backend] if stage.name in BACKENDS else None
        named = backend.named(section) if backend else ""
        own = backend.licence(section).split("; ") if backend else []
        limit = getattr(config.resources, stage.name).max_seconds_per_item
        made[stage.name] = Recipe(
            stage=stage.name,
            fingerprint=fingerprint(
                config, stage.name, stage.version, weights, [recipe.fingerprint for recipe in upstream]
            ),
            reads=reads,
            records=tuple(recipe.record for recipe in upstream),
            record=stage.record,
            num_gpus=getattr(config.resources, stage.name).num_gpus,
            max_seconds_per_item=0.0 if backend and backend.ends_itself else limit,
            backend=section.backend + (f" ({named})" if named else "") if backend else "",
            weights=weights,
            licences=tuple(sorted({*own, *map(licence, weights)} - {""})),
        )
    return made


@cache
def load(name: str, config: str, device: str) -> Stage:
    """The stage `name`, ready to be called; built once per process. `config` is Config.to_json()."""
    settings = Config.from_json(config)
    stage = BY_NAME[name](settings, settings.place(device))
    use_threads(name, settings)
    return stage


def use_threads(name: str, config: Config) -> None:
    """Let torch use the threads of the stage `name` in this process; index and mesh work without torch."""
    if "torch" in sys.modules:
        from anything3d.models import device

        device.use_threads(getattr(config.resources, name).threads)


def weights_of(config: Config) -> list[str]:
    """Names of all weights that a run under `config` needs, each once."""
    return sorted({name for stage in needed(config) for name in stage.weights(getattr(config, stage.name))})


def note(config: Config, mini_world: bool = False) -> str:
    """What whoever looks at the results has to know about the networks that made them; `mini_world`: and of what."""
    return remark(weights_of(config), mini_world)

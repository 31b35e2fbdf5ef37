"""The stages, in the order in which a datum travels, and what has to be known of them before any is loaded.

A stage file imports its algorithm only when its stage is built, so that this table costs no network and no torch.
"""

from functools import cache

from anything3d.models.device import use_threads
from anything3d.models.weights import packaged, trained
from pipeline.batch import Stage
from pipeline.cell import Recipe
from pipeline.config import Config, fingerprint
from pipeline.stages.caption import CaptionStage
from pipeline.stages.index import IndexStage
from pipeline.stages.invert import InvertStage
from pipeline.stages.lift import LiftStage
from pipeline.stages.mesh import MeshStage
from pipeline.stages.reconstruct import ReconstructStage
from pipeline.stages.score import ScoreStage
from pipeline.stages.segment import SegmentStage

STAGES = (
    IndexStage,
    SegmentStage,
    CaptionStage,
    InvertStage,
    LiftStage,
    ReconstructStage,
    MeshStage,
    ScoreStage,
)
BY_NAME = {stage.name: stage for stage in STAGES}
ONLY_MINI = (
    "The packaged mini networks know only the mini world. On photographs the results mean nothing; use --preset"
    " default."
)


def recipes(config: Config) -> dict[str, Recipe]:
    """The recipe of every stage under `config`, by name, in order."""
    found: dict[str, Recipe] = {}
    for stage in STAGES:
        upstream = [name for name in stage.reads if name in BY_NAME]
        section = getattr(config, stage.name)
        found[stage.name] = Recipe(
            stage=stage.name,
            fingerprint=fingerprint(
                config,
                stage.name,
                stage.version,
                stage.weights(section),
                [found[name].fingerprint for name in upstream],
            ),
            reads=stage.reads,
            records=tuple(found[name].record for name in upstream),
            record=stage.record,
            num_gpus=getattr(config.resources, stage.name).num_gpus,
        )
    return found


@cache
def load(name: str, config: str, device: str) -> Stage:
    """The stage `name`, ready to be called; built once per process. `config` is Config.to_json()."""
    settings = Config.from_json(config)
    use_threads(getattr(settings.resources, name).threads)
    return BY_NAME[name](settings, settings.place(device))


def weights_of(config: Config) -> list[str]:
    """Names of all weights that a run under `config` needs, each once."""
    return sorted({name for stage in STAGES for name in stage.weights(getattr(config, stage.name))})


def note(config: Config, mini_world: bool = False) -> str:
    """What whoever looks at the results has to know about the networks that made them; `mini_world`: and of what."""
    names = weights_of(config)
    if untrained := [name for name in names if not trained(name)]:
        return f"Untrained networks (random weights, results mean nothing): {', '.join(untrained)}."
    return "" if mini_world or not any(map(packaged, names)) else ONLY_MINI

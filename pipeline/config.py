"""The tree of settings. What a stage does is part of its fingerprint. Where and how fast it runs is not.

The TOML of a preset comes first, then that of a file, then `--set` lines, which are TOML themselves. They are merged,
checked once, and frozen.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from annotated_types import Interval
from pydantic import ConfigDict, TypeAdapter, ValidationError

from anything3d.errors import ConfigError
from anything3d.models.weights import Place
from anything3d.settings import check_ranges
from anything3d.settings.caption import CaptionConfig
from anything3d.settings.invert import InvertConfig
from anything3d.settings.lift import LiftConfig
from anything3d.settings.mesh import MeshConfig
from anything3d.settings.reconstruct import MAX_POINTS, ReconstructConfig
from anything3d.settings.score import ScoreConfig
from anything3d.settings.segment import SegmentConfig

SA_1B = "SA-1B Dataset Research License"


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """Which photos of a source are taken."""

    # The largest photo or annotation file, in bytes. A larger one is rejected. SA-1B's largest have a few MB.
    max_member_bytes: Annotated[int, Interval(ge=1, le=2**40)] = 64 << 20

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class Units:
    """How a shard is cut: one unit is one stage call and one commit. A change gives other cells, not other rows."""

    images: Annotated[int, Interval(ge=1, le=10**6)] = 64  # Photos of one call of segment.
    # Objects of one call of every later stage. One GPU optimises so many at once.
    objects: Annotated[int, Interval(ge=1, le=10**6)] = 8
    # Shards that are open at one time: the photos of one are segmented while the objects of another are distilled. A
    # snapshot is made after every so many shards.
    shards: Annotated[int, Interval(ge=1, le=10**6)] = 8

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class Workers:
    """The actors of one stage."""

    # Actors of this stage that run side by side, all the time. 0 means as many as fit this cluster. Their number is
    # chosen from the GPUs and CPUs, and from the time that an object takes in each stage. Where no stage runs on a GPU,
    # stages with 0 share their actors.
    workers: Annotated[int, Interval(ge=0, le=10**6)] = 0
    # GPUs of each actor. A fraction shares a GPU. Above 1, it is a whole number. It is ignored where the
    # cluster has no GPU.
    num_gpus: Annotated[float, Interval(ge=0, le=1024)] = 0.0
    num_cpus: Annotated[float, Interval(ge=0, le=1024)] = 0.1  # CPUs of each actor, for Ray's bookkeeping.
    threads: Annotated[int, Interval(ge=1, le=1024)] = 1  # Threads of each actor, for torch.
    # Seconds after which an item hangs. A call of N items has N times as many. A process that takes longer is killed.
    # An item that takes longer while it is alone becomes a reject with the reason timeout. Time in which networks are
    # loaded does not count. 0 is no limit. An item of index is a shard, an item of segment is a photo.
    max_seconds_per_item: Annotated[float, Interval(ge=0, le=10**7)] = 1800.0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise ConfigError("setting", f"num_gpus is {self.num_gpus}; must be at most 1, or a whole number")

    @property
    def cpus(self) -> float:
        """CPUs that one actor is charged with."""
        return max(self.num_cpus, self.threads)


@dataclass(frozen=True, slots=True)
class SegmentWorkers(Workers):
    """Actors that may run SAM."""

    # Photos that are decoded, and SAM encodes, at once; of a closer look, parts of a photo.
    images_per_batch: Annotated[int, Interval(ge=1, le=10**4)] = 4
    # Prompts of one photo that SAM decodes at once. Fewer prompts need less memory.
    prompts_per_batch: Annotated[int, Interval(ge=1, le=10**4)] = 32


@dataclass(frozen=True, slots=True)
class LiftWorkers(Workers):
    """Actors that run Point-E."""

    # Drafts of clouds in one call. More is slower on a CPU, because of its caches, and faster on a GPU.
    batch_clouds: Annotated[int, Interval(ge=1, le=10**4)] = 16


@dataclass(frozen=True, slots=True)
class ReconstructWorkers(Workers):
    """Actors that distil fields."""

    # Samples of the fields that are looked up at a time. 262144 fit the cache of a CPU; 4194304 suit a GPU.
    max_points: Annotated[int, Interval(ge=1, le=2**31)] = MAX_POINTS
    # Steps between two checkpoints. After a crash at most so many steps are computed again.
    checkpoint_every: Annotated[int, Interval(ge=1, le=10**6)] = 40


@dataclass(frozen=True, slots=True)
class Resources:
    """Where and how fast the stages run. Nothing here changes a row, and nothing here is hashed."""

    weights_root: str = ""  # The folder that is searched for weights that do not ship with the package.
    index: Workers = Workers()
    segment: SegmentWorkers = SegmentWorkers()
    caption: Workers = Workers()
    invert: Workers = Workers()
    lift: LiftWorkers = LiftWorkers()
    reconstruct: ReconstructWorkers = ReconstructWorkers()
    mesh: Workers = Workers()
    score: Workers = Workers()

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in fields(self) if isinstance(getattr(self, entry.name), Workers))


@dataclass(frozen=True, slots=True)
class Price:
    """What machines cost. Nothing here changes a row, and nothing here is hashed. 0 means that a price is not known."""

    # What one GPU costs for an hour. An actor pays for its share of a GPU, while it works on a cell.
    gpu_hour: Annotated[float, Interval(ge=0, le=10**9)] = 0.0
    # What one CPU costs for an hour. An actor pays for the larger of `num_cpus` and `threads`, while it works on a
    # cell. Leave it at 0 if the price of a GPU includes that of its machine.
    cpu_hour: Annotated[float, Interval(ge=0, le=10**9)] = 0.0
    currency: str = "USD"  # The name of the currency. It is only shown.

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class Config:
    """One run's settings. `seed`, `dtype` and the stage sections are hashed, and nothing else."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    # Start of all randomness. Every object has its own, made from this number, the stage and the object's id.
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # Precision of the networks.
    # The licence of the photos, which goes into the column `licence` of every object. It is not hashed. Photos of the
    # mini world are under Apache-2.0, whatever stands here. The default is that of SA-1B. With it, the column says `not
    # stated` of photos that come from no SA-1B shard.
    licence: str = SA_1B
    index: IndexConfig = field(default_factory=IndexConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    invert: InvertConfig = field(default_factory=InvertConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    units: Units = field(default_factory=Units)
    resources: Resources = field(default_factory=Resources)
    price: Price = field(default_factory=Price)

    def __post_init__(self) -> None:
        check_ranges(self)

    def place(self, device: str = "cpu") -> Place:
        return Place(device, self.dtype, self.resources.weights_root)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Config":
        return _adapter().validate_json(text, strict=True)


def load(layers: Sequence[str], settings: Sequence[str] = (), base: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Config from TOML texts, later ones over earlier ones, then `key.subkey=value` settings. `base` lies below all.

    The root of weights is made absolute, as actors work in folders of their own.

    Raises: ConfigError that names the key, what was given and what is allowed.
    """
    merged: dict[str, Any] = {}
    _merge(merged, base)
    for text in [*layers, *(_as_toml(setting) for setting in settings)]:
        try:
            _merge(merged, tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError("config_syntax", f"not TOML: {text.strip()[:200]!r}: {error}") from error
    _check_keys(merged, Config, "")
    try:
        config = _adapter().validate_json(json.dumps(merged), strict=True)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise ConfigError("setting", wrong) from error
    root = config.resources.weights_root
    return replace(config, resources=replace(config.resources, weights_root=root and str(Path(root).absolute())))


def fingerprint(config: Config, stage: str, version: int, weights: Mapping[str, str], upstream: Sequence[str]) -> str:
    """Hash of all that determines a stage's rows: settings, seed, weights (name -> digest), and what it reads.

    Of the settings, only those count that differ from the defaults. `version` stands for the defaults themselves
    (tests/pipeline/defaults.json). So a new setting whose default gives the old rows changes no fingerprint.
    """
    section = getattr(config, stage)
    own = changed(section, type(section)())
    recipe = [stage, version, config.seed, config.dtype, own, dict(weights), list(upstream)]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def differences(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Settings that both have, and that are not equal, in words."""
    for key in sorted(old.keys() & new.keys()):
        if isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            yield from differences(f"{prefix}{key}.", old[key], new[key])
        elif old[key] != new[key]:
            yield f"{prefix}{key} was {json.dumps(old[key])} and is {json.dumps(new[key])}"


def changed(section: Any, default: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass of settings
    """Setting -> value, where it is not that of `default`; of a section inside, again only what has changed.

    Where `default` is another class, or None, the class is named, and its own defaults count.
    """
    if type(section) is not type(default):
        return {"class": type(section).__name__, **changed(section, type(section)())}
    both = {entry.name: (getattr(section, entry.name), getattr(default, entry.name)) for entry in fields(section)}
    return {
        name: changed(value, usual) if is_dataclass(value) else value
        for name, (value, usual) in both.items()
        if value != usual
    }


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def _as_toml(setting: str) -> str:
    """`a.b=c` as TOML; a bare word that is no TOML value is taken as a string, as one types it in a shell."""
    key, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError("config_syntax", f"--set {setting!r}: write key=value, as in --set caption.beams=3")
    try:
        tomllib.loads(f"x = {value}")
    except tomllib.TOMLDecodeError:
        value = json.dumps(value)
    return f"{key.strip()} = {value}"


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _check_keys(values: Mapping[str, Any], section: type[Any], prefix: str) -> None:
    """pydantic drops unknown keys of a dataclass in silence; a misspelt setting must not run with the default."""
    hints = get_type_hints(section)
    known = [column.name for column in fields(section)]
    for key, value in values.items():
        if key not in known:
            near = get_close_matches(key, known, 1, 0.5)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else f"; known: {', '.join(known)}"
            raise ConfigError("config_key", f"no key '{prefix}{key}'{hint}")
        if is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError("setting", f"'{prefix}{key}' is a section, got {value!r}")
            _check_keys(value, hints[key], f"{prefix}{key}.")

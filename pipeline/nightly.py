"""A night: the wanted shards are run, evaluated and compared with the last snapshot. They are published if they pass.

Everything is made before anything is published. If a gate refuses, the corpus shows what it showed before. What has
been computed stays in the cells, so that the next night goes on from there.
"""

import json
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from anything3d.errors import ConfigError
from anything3d.settings import Share
from pipeline.compare import SCORES, Comparison, compare, means_of
from pipeline.config import Config
from pipeline.ledger import Attempt, machine, read
from pipeline.location import explained
from pipeline.marker import check
from pipeline.plan import Selection
from pipeline.release.garbage import gc
from pipeline.release.partition import Partition, Tally
from pipeline.release.snapshot import Snapshot, newest
from pipeline.run import run
from pipeline.run_report import RunReport
from pipeline.stages import BY_NAME
from pipeline.store import Store
from schemas.records import EvaluationRecord

if TYPE_CHECKING:
    from pipeline.evaluate import Evaluation
    from pipeline.truth import GivenTruth

FOLDER = "nightly"  # of the files that say which night is at work
TURN = re.compile(rf"{FOLDER}/(\d{{6,}})\.json")
POLL_S = 1.0  # between two looks whether another night lives


class Gates(BaseModel):
    """What a night has to reach. They are judged over the shards of the night."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min_objects: int = Field(1, ge=0)
    min_yield: Mapping[str, Share] = {}  # stage -> least share of the items that came to it which it did not reject
    min_mean: Mapping[str, float] = {}  # score -> its least mean
    max_rejects: Mapping[str, NonNegativeInt] = {}  # reason -> most rejects


class Night(BaseModel):
    """What the file of `anything3d nightly` says."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    out: str
    shards: list[str] = Field(min_length=1)  # as `anything3d run` takes them; patterns are looked up every night
    preset: str = "mini"
    settings: list[str] = []  # key=value, as --set takes them
    truth: list[str] = []  # what is known of the objects, as `anything3d evaluate` takes it
    max_objects: int | None = Field(default=None, ge=1)
    sample_rate: float | None = Field(default=None, gt=0, le=1)
    max_gpu_hours: float | None = Field(default=None, ge=0)  # limits of one night, as `anything3d run` takes them
    max_cost: float | None = Field(default=None, ge=0)
    keep_last: int | None = Field(default=None, ge=1)  # snapshots that stay when gc follows; None: no gc
    keep_days: int = Field(default=7, ge=0)  # days for which snapshots, files and cells stay in any case
    gates: Gates = Field(default_factory=lambda: Gates.model_validate({}))


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a night."""

    report: RunReport
    comparison: Comparison
    evaluation: "Evaluation | None"  # None: no truth was given
    # The gates that refused, in words. If there is one, nothing was published. A limit may leave them nothing to judge.
    refused: tuple[str, ...]


def read_night(text: str, name: str) -> Night:
    """A night's file; `name` is what it is called in errors.

    Raises: ConfigError for a text that is no TOML, an unknown key, stage or score, or a value that is not allowed.
    """
    try:
        night = Night.model_validate(tomllib.loads(text), strict=True)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config_syntax", f"{name} is not TOML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError("night", f"{name}: {wrong}") from error
    for kind, given, known in (
        ("gates.min_yield: no stage", night.gates.min_yield, BY_NAME),
        ("gates.min_mean: no score", night.gates.min_mean, SCORES),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise ConfigError("night", f"{name}: {kind} {', '.join(unknown)}; known are {', '.join(known)}")
    return night


def spend(night: Night, config: Config, shards: Sequence[str], out: str, say: Callable[[str], None]) -> Told | str:
    """Run a night. If another one is at work on the corpus already, who that is.

    Raises: as `pipeline.run.run` and `pipeline.evaluate.evaluate`.
    """
    with explained(out):
        store = Store(out)
        check(store)
    with Attempt(store, FOLDER) as attempt:
        if other := at_work(store, attempt):
            says = read(store, other)
            return f"process {says.get('pid')} on {says.get('host')}"
        attempt.close_the_dead()
        return _spend(night, config, shards, store, say)


def at_work(store: Store, attempt: Attempt) -> str:
    """The file of another night that is at work on the corpus; "" if it is the turn of this one now.

    A night takes its turn put-if-absent, under the number after the last one. So of nights that begin at once, exactly
    one goes on.
    """
    turns = {int(match[1]): match[0] for match in map(TURN.fullmatch, store.paths(FOLDER)) if match}
    last = max(turns, default=0)
    if last and _lives(store, attempt, holder := _attempt_of(read(store, turns[last]))):
        return holder
    mine = {"attempt": attempt.name}
    stands = json.loads(store.create(f"{FOLDER}/{last + 1:06d}.json", json.dumps(mine).encode()))
    if stands != mine:
        return _attempt_of(stands)
    store.delete(list(turns.values()))
    return ""


def _attempt_of(turn: Mapping[str, Any]) -> str:
    return f"{FOLDER}/attempts/{turn.get('attempt')}.json"


def _lives(store: Store, attempt: Attempt, other: str) -> bool:
    """Whether a night goes on. Of one on another machine, its next sign of life is awaited, for LEASE_S at most."""
    first = None
    while True:
        attempt.look()
        if other not in attempt.living:
            return False
        entry = store.entries(f"{FOLDER}/attempts").get(other)
        if read(store, other).get("machine") == machine() or (first and entry and entry.modified > first.modified):
            return True
        first = first or entry
        time.sleep(POLL_S)


def _given(truths: Sequence[str]) -> "list[GivenTruth]":
    """The truths of a night. A night without them loads no torch."""
    if not truths:
        return []
    from pipeline.truth import given_truth

    return [given_truth(location) for location in truths]


def _spend(night: Night, config: Config, shards: Sequence[str], store: Store, say: Callable[[str], None]) -> Told:
    before, given = newest(store), _given(night.truth)
    judged: list[tuple[Comparison, Evaluation | None, tuple[str, ...]]] = []
    numbers: list[EvaluationRecord] = []

    def judge(candidate: Snapshot, mine: Mapping[str, Partition]) -> bool:
        comparison = compare(store, before, candidate)
        evaluation = None
        if given:
            from pipeline.evaluate import evaluate_snapshot

            evaluation, numbers[:] = evaluate_snapshot(store, candidate, given, say)
        refused = tuple(refusals(night.gates, mine, means_of(store, mine)))
        judged[:] = [(comparison, evaluation, refused)]
        return not refused and bool(mine)

    selection = Selection(night.max_objects, sample_rate=night.sample_rate)
    report = run(
        config,
        shards,
        store.root,
        selection,
        preset=night.preset,
        judge=judge,
        max_gpu_hours=night.max_gpu_hours,
        max_cost=night.max_cost,
        say=say,
    )
    if given and report.snapshot is not None:
        from pipeline.evaluate import write_evaluation

        write_evaluation(store, report.snapshot.number, numbers)
    if night.keep_last is not None and report.snapshot is not None:
        removed = sum(
            found.files for found in gc(store.root, night.keep_days, night.keep_last, apply=True).folders.values()
        )
        say(f"gc deleted {removed} files")
    comparison, evaluation, refused = judged[0]
    return Told(report, comparison, evaluation, refused if report.partitions or not report.limit else ())


def refusals(gates: Gates, partitions: Mapping[str, Partition], means: Mapping[str, float]) -> Iterator[str]:
    """What the gates have against these partitions, each in one sentence."""
    objects = sum(partition.objects for partition in partitions.values())
    if objects < gates.min_objects:
        yield f"The night has {objects} objects, and at least {gates.min_objects} are wanted."
    for stage, least in gates.min_yield.items():
        share = yield_of(stage, partitions)
        if share is None:
            yield f"No item came to {stage}, and at least {least:.1%} of them are wanted."
        elif share < least:
            yield f"{stage} let {share:.1%} of its items through, and at least {least:.1%} are wanted."
    for score, least in gates.min_mean.items():
        mean = means.get(score)
        if mean is None or mean < least:
            said = "no value" if mean is None else f"a mean of {mean:.4g}"
            yield f"{score} has {said}, and at least {least:g} is wanted."
    for reason, most in gates.max_rejects.items():
        rejected = [entry for one in partitions.values() for entry in one.rejected if entry.reason == reason]
        if (count := sum(entry.inputs + entry.parts for entry in rejected)) > most:
            yield f"{count} items were rejected as {reason}, and at most {most} may be."


def yield_of(stage: str, partitions: Mapping[str, Partition]) -> float | None:
    """The share of the items that came to a stage which it did not reject; None if none came."""
    tallies: list[Tally] = [one.stages[stage] for one in partitions.values() if stage in one.stages]
    inputs = sum(tally.inputs for tally in tallies)
    rejected = sum(entry.inputs for one in partitions.values() for entry in one.rejected if entry.stage == stage)
    return 1 - rejected / inputs if inputs else None

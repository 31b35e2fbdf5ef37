"""A cell is a stage applied to a unit, and this is the memoised function that makes it exist. No Ray in here.

If the commit is there, it is returned. Else: record the attempt, join the inputs, call the stage, split a failing
batch, check the balance, write the parts, commit. Resume, a restarted actor, a second driver and "run only what
changed" are all this one path.
"""

import hashlib
import json
import logging
import os
import socket
import time
import traceback
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from typing import Any, Protocol

from anything3d.errors import Anything3DError, ConfigError, WeightsError
from pipeline.store import Commit, Part, Store
from pipeline.unit import SOURCES, Input, Unit
from schemas.records import RejectRecord

DEATHS_BEFORE_ISOLATION = (
    2  # attempts on a cell that ended without a word, before its items run in a process of their own
)
MOST_DEATHS = 6  # ... and before the whole cell is given up and the run ends
VERSIONS = ("anything3d", "torch", "transformers", "diffusers")  # written into every commit

log = logging.getLogger(__name__)
Outcome = list[Any] | Anything3DError  # of one item: its rows (RejectRecords among them, for its parts), or why not


class BalanceError(Anything3DError):
    """inputs != items with rows + rejects: a bug of the stage, never of the data."""


class PoisonCell(Anything3DError):
    """A cell kills whoever touches it, even with its items in processes of their own."""


class Checkpoint(Protocol):
    """Inner state of one long call; lives until the cell commits."""

    def load(self) -> bytes | None: ...
    def save(self, state: bytes) -> None: ...


class Stage(Protocol):
    """One verb of the pipeline. Built once per actor; called with a batch of items."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...  # raised when equal config would give different rows
    @property
    def reads(self) -> tuple[str, ...]: ...  # "shard", "truth" or stages; an item is one record of every stage named
    @property
    def record(self) -> type[Any]: ...
    def __call__(self, items: Sequence[Any], unit: Unit, checkpoint: Checkpoint) -> list[Outcome]: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a cell but its unit: what it reads and writes, and the fingerprint of all that shapes its rows."""

    stage: str
    fingerprint: str
    reads: tuple[str, ...]
    records: tuple[type[Any], ...]  # of the stages in `reads`
    record: type[Any]  # of its own rows
    num_gpus: float = 0.0


class Loader(Protocol):
    """Gives the loaded stage, loading it on the first call: a cell that exists must not cost a model."""

    def __call__(self) -> Stage: ...


def folder_of(recipe: Recipe, unit: Unit) -> str:
    """Where the cell lies: stage, fingerprint, unit and the digests of exactly what it reads."""
    inputs = [[name, unit.inputs[name].digest] for name in recipe.reads]
    key = hashlib.sha256(json.dumps([unit.name, inputs]).encode()).hexdigest()[:10]
    return f"cells/{recipe.stage}/{recipe.fingerprint}/{unit.name}-{key}"


def find(recipe: Recipe, unit: Unit, store: Store) -> Commit | None:
    """The cell's commit, if it exists."""
    return store.commit_at(folder_of(recipe, unit))


def run(recipe: Recipe, unit: Unit, store: Store, load: Loader) -> tuple[Commit, bool]:
    """The cell's commit, and whether this call made it."""
    if done := find(recipe, unit, store):
        return done, False
    folder, attempt, started = folder_of(recipe, unit), uuid.uuid4().hex, time.time()
    deaths = len(store.paths(f"{folder}/attempts"))
    if deaths >= MOST_DEATHS:
        message = f"{store.root}/{folder}: {deaths} attempts ended without a word, isolated ones too"
        raise PoisonCell("poison_cell", f"{message}; its attempts/ say where; delete that to try again")
    ledger = f"{folder}/attempts/{attempt}.json"
    store.write(ledger, json.dumps(whoami(started)).encode())
    try:
        return make(recipe, unit, store, load, attempt, deaths, started)
    except BaseException:
        forget(store, [ledger])  # it did not end without a word
        raise


def make(
    recipe: Recipe, unit: Unit, store: Store, load: Loader, attempt: str, deaths: int, started: float
) -> tuple[Commit, bool]:
    """Compute the cell and commit it; the commit that stands, and whether it is this one."""
    folder = folder_of(recipe, unit)
    ids, items = join(recipe, unit, store)
    if deaths < DEATHS_BEFORE_ISOLATION:
        checkpoint = StoredCheckpoint(store, folder, attempt)
        outcomes, attempts = attempt_batch(load(), ids, items, unit, checkpoint)
    else:
        outcomes, attempts = isolate(load, ids, items, unit), [deaths + 1] * len(ids)
    rows, rejects = sort_outcomes(recipe.stage, ids, outcomes, attempts)

    seconds = time.time() - started
    commit = Commit(
        stage=recipe.stage,
        unit=unit.name,
        fingerprint=recipe.fingerprint,
        digest="",
        rows=store.write_part(folder, "rows", rows, recipe.record),
        rejects=store.write_part(folder, "rejects", rejects, RejectRecord),
        inputs={name: unit.inputs[name].digest for name in recipe.reads},
        counts=count(ids, rows, rejects),
        attempt=attempt,
        attempts=deaths + 1,
        seconds=seconds,
        gpu_seconds=seconds * recipe.num_gpus,
        versions=versions(),
    )
    commit = replace(commit, digest=content_digest(commit.rows, rejects))
    winner = Commit.from_json(store.create(f"{folder}/commit.json", commit.to_json()))
    if winner.digest != commit.digest:
        log.warning("%s: another attempt committed other rows (%s); kept its", folder, winner.attempt)
    forget(store, store.paths(f"{folder}/checkpoints"))
    return winner, winner.attempt == attempt


def whoami(started: float) -> dict[str, Any]:
    """What the ledger keeps of an attempt, for those who ask later which process on which machine died."""
    return {"started": started, "host": socket.gethostname(), "pid": os.getpid()}


def forget(store: Store, paths: Sequence[str]) -> None:
    """Delete what lies there; a rival at work on the same cell may have done so."""
    for path in paths:
        with suppress(FileNotFoundError):
            store.delete([path])


def versions() -> dict[str, str]:
    """Of the packages that made a cell; a Ray job brings this one as plain files, which have none."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def join(recipe: Recipe, unit: Unit, store: Store) -> tuple[list[str], list[Any]]:
    """The unit's items that every stage it reads has rows for, each with those rows; a rejected one goes no further."""
    stages = [name for name in recipe.reads if name not in SOURCES]
    if not stages:
        return list(unit.ids), list(unit.ids)
    tables = []
    for name, record in zip(stages, recipe.records, strict=True):
        commit = store.commit_at(unit.inputs[name].path)
        if commit is None:
            raise FileNotFoundError(
                f"{store.root}: {unit.inputs[name].path}/commit.json has gone; was the corpus cleaned?"
            )
        rows = store.read_part(commit.rows, record, unit.ids)
        tables.append({getattr(row, fields(record)[0].name): row for row in rows})
    ids = [item for item in unit.ids if all(item in table for table in tables)]
    return ids, [tuple(table[item] for table in tables) for item in ids]


def attempt_batch(
    stage: Stage, ids: Sequence[str], items: Sequence[Any], unit: Unit, checkpoint: Checkpoint
) -> tuple[list[Outcome], list[int]]:
    """Outcomes of all items and how often each was tried: together, and if that raises, one by one."""
    if not items:
        return [], []
    try:
        return stage(items, unit, checkpoint), [1] * len(items)
    except (ConfigError, WeightsError):
        raise
    except Exception:
        if len(items) > 1:
            log.warning("%s %s: the batch failed, trying its items one by one\n%s", stage.name, unit.name, _traceback())
    return [attempt_item(stage, item, unit) for item in items], [2] * len(items)


def attempt_item(stage: Stage, item: object, unit: Unit) -> Outcome:
    """The outcome of one item alone; whatever it raises becomes its outcome."""
    try:
        return stage([item], unit, NoCheckpoint())[0]
    except (ConfigError, WeightsError):
        raise
    except Anything3DError as error:
        return error
    except Exception as error:
        return Anything3DError(type(error).__name__, _traceback())


def isolate(load: Loader, ids: Sequence[str], items: Sequence[Any], unit: Unit) -> list[Outcome]:
    """Outcomes of items that run one at a time in a throw-away process: who kills it is rejected as crashed."""
    outcomes: list[Outcome] = []
    pool = None
    for name, item in zip(ids, items, strict=True):
        pool = pool or ProcessPoolExecutor(1, get_context("spawn"))
        try:
            outcomes.append(pool.submit(partial(_isolated, load, item, unit)).result())
        except BrokenProcessPool:
            log.warning("%s: %s killed its process", unit.name, name)
            outcomes.append(_Crashed("process_died", f"{name} killed the process that worked on it, alone"))
            pool = None
    if pool:
        pool.shutdown()
    return outcomes


def sort_outcomes(
    stage: str, ids: Sequence[str], outcomes: Sequence[Outcome], attempts: Sequence[int]
) -> tuple[list[Any], list[RejectRecord]]:
    """Rows and rejects, after checking that every item has one or the other.

    Raises: BalanceError if an item has neither, or a row appears twice.
    """
    if len(outcomes) != len(ids):
        raise BalanceError("not_balanced", f"{stage}: {len(ids)} items, {len(outcomes)} outcomes")
    rows: list[Any] = []
    rejects: list[RejectRecord] = []
    for item, outcome, tries in zip(ids, outcomes, attempts, strict=True):
        if isinstance(outcome, Anything3DError):
            rejects.append(RejectRecord(item, stage, outcome.kind, outcome.reason, outcome.message, tries))
        elif outcome:
            rejects += [row for row in outcome if isinstance(row, RejectRecord)]
            rows += [row for row in outcome if not isinstance(row, RejectRecord)]
        else:
            raise BalanceError("not_balanced", f"{stage}: {item} has neither a row nor a reject")
    keys = [getattr(row, fields(row)[0].name) for row in rows]
    if len(set(keys)) != len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})[:5]
        raise BalanceError("not_balanced", f"{stage}: rows with the same id: {twice}")
    return rows, rejects


def count(ids: Sequence[str], rows: Sequence[Any], rejects: Sequence[RejectRecord]) -> dict[str, int]:
    kinds = [reject.kind for reject in rejects]
    return {
        "inputs": len(ids),
        "rows": len(rows),
        **{kind: kinds.count(kind) for kind in ("skipped", "failed", "crashed")},
    }


def content_digest(rows: Part, rejects: Sequence[RejectRecord]) -> str:
    """Digest of what a cell says: its rows, and who was rejected why; not how often it was tried."""
    causes = sorted([reject.item_id, reject.kind, reject.reason] for reject in rejects)
    return hashlib.sha256(json.dumps([rows.sha256, causes]).encode()).hexdigest()


class StoredCheckpoint:
    """The cell's checkpoint in the store, with its own digest: a torn or foreign one reads as none.

    One that is saved forgives the deaths before it: whoever gets further was not killed by the cell. Saving again what
    was loaded is not further.
    """

    def __init__(self, store: Store, folder: str, attempt: str) -> None:
        self._store, self._path = store, f"{folder}/checkpoints/state"
        self._ledger, self._own = f"{folder}/attempts", f"{attempt}.json"
        self._loaded = b""

    def load(self) -> bytes | None:
        data = self._store.find(self._path) or b""
        self._loaded, state = data[:32], data[32:]
        return state if self._loaded == hashlib.sha256(state).digest() and state else None

    def save(self, state: bytes) -> None:
        digest = hashlib.sha256(state).digest()
        self._store.write(self._path, digest + state)
        if digest != self._loaded:
            forget(self._store, [path for path in self._store.paths(self._ledger) if not path.endswith(self._own)])


class NoCheckpoint:
    """For an item that is tried alone: the batch's state is not its own."""

    def load(self) -> bytes | None:
        return None

    def save(self, state: bytes) -> None:
        del state


class _Crashed(Anything3DError):
    """An item that killed its process."""

    kind = "crashed"


def _isolated(load: Loader, item: object, unit: Unit) -> Outcome:
    return attempt_item(load(), item, unit)


def _traceback() -> str:
    return traceback.format_exc(limit=-4).strip()[-2000:]


def as_input(recipe: Recipe, unit: Unit, commit: Commit) -> Unit:
    """The unit as later stages see it: with this cell among its inputs."""
    return unit.with_input(recipe.stage, Input(folder_of(recipe, unit), commit.digest))

"""A cell is a stage applied to a unit. `run` gives the commit of a cell, and makes the cell if it does not exist.

If the commit exists, `run` returns it. Otherwise it joins the rows that the stage reads, computes the outcomes
(`batch.py`), checks the balance, writes the parts, and commits. There is no other path: a resumed run, a restarted
actor, a second driver and a run after a changed setting all take this one. This file does not use Ray.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from time import time
from typing import Any

from obstore.exceptions import BaseError

from anything3d.errors import Anything3DError, Bug, DamagedCell, MachineError
from pipeline import batch
from pipeline.batch import LoadedStage, Loader, Outcome
from pipeline.commit import Commit, Part
from pipeline.ledger import Attempt
from pipeline.limit import Limit
from pipeline.store import Store
from pipeline.unit import SOURCES, Input, Unit
from schemas.records import ImageRecord, ObjectRecord, RejectRecord

DEATHS_BEFORE_ISOLATION = 2  # attempts on a cell that died, before it is computed in a throw-away process
VERSIONS = ("anything3d", "torch", "transformers", "diffusers")  # written into every commit

log = logging.getLogger(__name__)
At = Callable[[int, int], None]  # is told the step that a call has done, and the number of its steps


def nobody(step: int, steps: int) -> None:
    """Who is told the steps of a call that nobody watches."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of a cell but its unit: what it reads and writes, and the fingerprint of all that shapes its rows."""

    stage: str
    fingerprint: str
    reads: tuple[str, ...]
    records: tuple[type[Any], ...]  # of the stages in `reads`
    record: type[Any]  # of its own rows
    num_gpus: float = 0.0
    max_seconds_per_item: float = 0.0  # after which an item hangs; 0: never
    backend: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)  # name -> digest
    licences: tuple[str, ...] = ()  # of the weights and of the backend's own code


def folder_of(recipe: Recipe, unit: Unit) -> str:
    """Where the cell lies: stage, fingerprint, unit and the digests of exactly what it reads."""
    inputs = [[name, unit.inputs[name].digest] for name in recipe.reads]
    key = hashlib.sha256(json.dumps([unit.name, inputs]).encode()).hexdigest()[:10]
    return f"cells/{recipe.stage}/{recipe.fingerprint}/{unit.name}-{key}"


def find(recipe: Recipe, unit: Unit, store: Store) -> Commit | None:
    """The cell's commit, if it exists."""
    return store.commit_at(folder_of(recipe, unit))


def run(recipe: Recipe, unit: Unit, store: Store, load: Loader, at: At = nobody) -> tuple[Commit, bool]:
    """The cell's commit, and whether this call made it. `at` is told the steps that are made in this process.

    Raises: what ends a run, `batch.ENDING`; a MachineError only if the fault of the machine does not pass. Then there
    is no commit, and the next call tries again.
    """
    folder = folder_of(recipe, unit)
    try:
        if done := find(recipe, unit, store):
            return done, False
        with Attempt(store, folder) as attempt:
            commit, ours = make(recipe, unit, store, load, attempt, at)
    except (BaseError, OSError) as error:
        said = (str(error).splitlines() or [""])[0][:300]
        raise MachineError("storage_failed", f"{store.root}/{folder}: {type(error).__name__}: {said}") from error
    if ours:
        log.info("commit: %s", told(commit))
    return commit, ours


def told(commit: Commit) -> str:
    """A commit in the words of a log: what went in, what came out, and how long it took."""
    counts = commit.counts
    return (
        f"stage={commit.stage} unit={commit.unit} in={counts['inputs']} out={counts['rows']} rejects={commit.rejected}"
        f" seconds={commit.seconds:.1f}"
    )


def told_late(recipe: Recipe, unit: Unit, ids: Sequence[str], limit: float) -> str:
    """In the words of a log: a call of the stage hangs, or its machine is much too slow."""
    some = ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")
    return (
        f"over its time: stage={recipe.stage} unit={unit.name} items={len(ids)} ({some}) limit={limit:g} s"
        f" (resources.{recipe.stage}.max_seconds_per_item={recipe.max_seconds_per_item:g}). Its process is killed."
    )


def make(recipe: Recipe, unit: Unit, store: Store, load: Loader, attempt: Attempt, at: At) -> tuple[Commit, bool]:
    """Compute the cell and commit it; the commit that stands, and whether it is this one."""
    folder, started = folder_of(recipe, unit), time()
    ids, items = join(recipe, unit, store)

    def tell(late: Sequence[str], limit: float) -> None:
        """Say it before the process is killed: the log is told, and so is the attempt that comes after this one."""
        log.warning("%s", told_late(recipe, unit, late, limit))
        attempt.says(over_time_s=limit)

    def loaded() -> LoadedStage:
        """The stage; the time in which it is loaded is not that of the cell."""
        nonlocal started
        before = time()
        stage = load()
        started += time() - before
        return stage

    apart = len(attempt.dead) >= DEATHS_BEFORE_ISOLATION or any("over_time_s" in says for says in attempt.dead.values())
    saved: set[str] = set()
    outcomes, tries = batch.compute(
        load if apart else loaded,
        ids,
        items,
        unit,
        partial(StoredCheckpoint, store, folder, saved, at=nobody if apart else at),
        apart=apart,
        limit=Limit(recipe.max_seconds_per_item, tell),
    )
    rows, rejects = sort_outcomes(recipe.stage, ids, outcomes, tries)

    seconds = time() - started
    commit = Commit(
        stage=recipe.stage,
        unit=unit.name,
        fingerprint=recipe.fingerprint,
        digest="",
        rows=store.write_part(folder, "rows", rows, recipe.record),
        rejects=store.write_part(folder, "rejects", rejects, RejectRecord) if rejects else None,
        inputs={name: unit.inputs[name].digest for name in recipe.reads},
        counts=count(ids, rows, rejects),
        attempt=attempt.name,
        attempts=len(attempt.dead) + 1,
        seconds=seconds,
        gpu_seconds=seconds * recipe.num_gpus,
        versions=versions(),
        backend=recipe.backend,
        weights=recipe.weights,
        licences=recipe.licences,
        reasons=Counter(f"{reject.kind} {reject.reason}" for reject in rejects),
    )
    commit = replace(commit, digest=content_digest(commit.rows, rejects))
    winner = store.create_commit(folder, commit)
    if winner.digest != commit.digest:
        log.warning("%s: another attempt (%s) committed other rows first. Its rows are kept.", folder, winner.attempt)
    if saved or attempt.left:
        store.delete(store.paths(f"{folder}/checkpoints"))
    attempt.close_the_dead()
    return winner, winner.attempt == attempt.name


@cache
def versions() -> Mapping[str, str]:
    """Of the packages that made a cell; a Ray job brings this one as plain files, which have none."""
    named = {}
    for name in VERSIONS:
        try:
            named[name] = version(name)
        except PackageNotFoundError:
            named[name] = "not installed"
    return named


def join(recipe: Recipe, unit: Unit, store: Store) -> tuple[list[str], list[Any]]:
    """The unit's items that every stage it reads has rows for, each with those rows; a rejected one goes no further.

    A stage of objects that reads `index` gets the row of each object's photo; it has to read `segment` first.
    """
    stages = [name for name in recipe.reads if name not in SOURCES]
    if not stages:
        return list(unit.ids), list(unit.ids)
    tables: list[dict[str, Any]] = []
    photo_of = dict(zip(unit.ids, unit.ids, strict=True))  # of an item; items may be photos themselves
    for name, record in zip(stages, recipe.records, strict=True):
        commit = store.commit_at(unit.inputs[name].path)
        if commit is None:
            raise DamagedCell(
                "commit_gone", f"{store.root}/{unit.inputs[name].path}/commit.json has gone while the run was at work."
            )
        ids = photo_of if record is ImageRecord else dict(zip(unit.ids, unit.ids, strict=True))
        rows = {getattr(row, fields(record)[0].name): row for row in store.read_part(commit.rows, record, ids.values())}
        tables.append({item: rows[key] for item, key in ids.items() if key in rows})
        if record is ObjectRecord:
            photo_of = {item: row.image_id for item, row in tables[-1].items()}
    whole = [item for item in unit.ids if all(item in table for table in tables)]
    return whole, [tuple(table[item] for table in tables) for item in whole]


def sort_outcomes(
    stage: str, ids: Sequence[str], outcomes: Sequence[Outcome], attempts: Sequence[int]
) -> tuple[list[Any], list[RejectRecord]]:
    """Rows and rejects, after checking that every item has one or the other.

    Raises: Bug if an item has neither, or a row appears twice.
    """
    if len(outcomes) != len(ids):
        raise Bug("not_balanced", f"{stage} was given {len(ids)} items and gave {len(outcomes)} outcomes.")
    rows: list[Any] = []
    rejects: list[RejectRecord] = []
    for item, outcome, tries in zip(ids, outcomes, attempts, strict=True):
        if isinstance(outcome, Anything3DError):
            rejects.append(RejectRecord(item, stage, outcome.kind, outcome.reason, outcome.message, tries))
        elif outcome:
            rejects += [row for row in outcome if isinstance(row, RejectRecord)]
            rows += [row for row in outcome if not isinstance(row, RejectRecord)]
        else:
            raise Bug("not_balanced", f"{stage} gave neither a row nor a reject of {item}.")
    keys = [getattr(row, fields(row)[0].name) for row in rows]
    if len(set(keys)) != len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})[:5]
        raise Bug("not_balanced", f"{stage} gave more than one row of {twice}.")
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
    """The checkpoint of the items with these ids, in the cell's folder. A torn or foreign one reads as none.

    `saved` is told the paths that have been written in this process.
    """

    def __init__(self, store: Store, folder: str, saved: set[str], ids: Sequence[str], at: At = nobody) -> None:
        name = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:10]
        self._store, self._path, self._saved = store, f"{folder}/checkpoints/{name}", saved
        self.at = at

    def load(self) -> bytes | None:
        data = self._store.find(self._path) or b""
        digest, state = data[:32], data[32:]
        return state if digest == hashlib.sha256(state).digest() and state else None

    def save(self, state: bytes) -> None:
        self._saved.add(self._path)
        self._store.write(self._path, hashlib.sha256(state).digest() + state)


def as_input(recipe: Recipe, unit: Unit, commit: Commit) -> Unit:
    """The unit as later stages see it: with this cell among its inputs."""
    return unit.with_input(recipe.stage, Input(folder_of(recipe, unit), commit.digest))

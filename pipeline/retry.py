"""Rejected items of a corpus run again: which ones is written down (release/retries.py), and their shards are run.

What is run of a shard is what was run of it before: its manifest has the settings and the wanted objects.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from anything3d.errors import ConfigError, DamagedCell, SourceError
from pipeline.config import Config, load
from pipeline.input.ids import image_of
from pipeline.input.source import file_name
from pipeline.location import explained
from pipeline.plan import Selection
from pipeline.release.partition import MEND, Partition, read_manifest, sound_commit, sound_table
from pipeline.release.publish import rejects_in
from pipeline.release.retries import Cells, Retry, add, cells_of, numbers_of, read_retries
from pipeline.release.snapshot import snapshot_of
from pipeline.run import run
from pipeline.run_report import RunReport
from pipeline.stages import STAGES, recipes
from pipeline.store import Store
from schemas.arrow import from_table
from schemas.records import ManifestRecord, RejectRecord

RETRIED = tuple(stage.name for stage in STAGES if stage.name != "index")  # stages whose rejects can run again
READERS = 16  # threads that read cells


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rejects are to run again. Nothing named means all."""

    reasons: Collection[str] = ()
    stages: Collection[str] = ()
    shards: Collection[str] = ()

    def __post_init__(self) -> None:
        """Raises: ConfigError("retry_stage") for a stage whose rejects cannot run again."""
        if unknown := [stage for stage in self.stages if stage not in RETRIED]:
            raise ConfigError(
                "retry_stage", f"Rejects of {', '.join(unknown)} cannot run again, those of {', '.join(RETRIED)} can."
            )

    def takes(self, stage: str, kind: str, reason: str) -> bool:
        """Skipped items never run again: a setting has excluded them."""
        named = stage in (self.stages or RETRIED) and (not self.reasons or reason in self.reasons)
        return named and kind in ("failed", "crashed")


@dataclass(slots=True)
class Retried:
    """What a retry did."""

    items: dict[str, set[str]] = field(default_factory=dict)  # shard -> items that this command asked to run again
    reports: list[RunReport] = field(default_factory=list)
    rejected: set[str] = field(default_factory=set)  # those of the items that are rejects again


@dataclass(frozen=True, slots=True)
class Command:
    """How a shard was run."""

    config: Config
    preset: str
    selection: Selection
    md5: str  # that it had to have; "" if any


def retry(
    corpus: str,
    wanted: Wanted,
    settings: Sequence[str] = (),
    *,
    one_stage_at_a_time: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Retried:
    """Run failed and crashed items of the newest snapshot again, each from the stage on that rejected it.

    `settings` go over those of each shard. They may change resources and prices only. A retry that was stopped is
    finished, too.

    Raises: SourceError("no_snapshot"), SourceError("no_partition"), SourceError("damaged_corpus"),
    ConfigError("retry_changed") for other settings, or if a shard would not get the rows that it has; what `run`
    raises.
    """
    store, snapshot = snapshot_of(corpus)
    if unknown := [shard for shard in wanted.shards if shard not in snapshot.partitions]:
        raise SourceError("no_partition", f"{corpus} has no shard {', '.join(unknown)}.")
    with explained(corpus):
        named = {name: one for name, one in snapshot.partitions.items() if not wanted.shards or name in wanted.shards}
        known = read_retries(store)
        chosen = {name: cells for name, one in named.items() if (cells := rejected_cells(store, one, wanted, known))}
        todo = [name for name, one in named.items() if name in chosen or one.retries != numbers_of(known, name)]
        commands = {name: command_of(store, named[name], settings) for name in todo}
        add(store, chosen)
    done = Retried({name: {item for some in cells.values() for item in some} for name, cells in chosen.items()})
    for shards in alike(commands):
        command = commands[shards[0]]
        locations = [named[shard].location for shard in shards]
        md5 = {file_name(named[shard].location): commands[shard].md5 for shard in shards if commands[shard].md5}
        say(f"{sum(len(done.items.get(shard, ())) for shard in shards)} items of {', '.join(shards)} run again")
        report = run(
            command.config,
            locations,
            corpus,
            command.selection,
            preset=command.preset,
            one_stage_at_a_time=one_stage_at_a_time,
            md5=md5 or None,
            say=say,
        )
        done.reports.append(report)
        for name, partition in report.partitions.items():
            rows = from_table(sound_table(store, partition.tables["rejects"]), RejectRecord)
            done.rejected |= {row.item_id for row in rows if not row.retried} & done.items.get(name, set())
    return done


def rejected_cells(store: Store, partition: Partition, wanted: Wanted, retries: Sequence[Retry] = ()) -> Cells:
    """The cells of a shard that rejected wanted items: folder -> these items. One look at the snapshot if none did.

    Items that the partition has from one of these retries are not among them: such a reject is history.

    Raises: SourceError("damaged_corpus") if a cell has gone.
    """
    if not any(wanted.takes(entry.stage, entry.kind, entry.reason) for entry in partition.rejected):
        return {}
    rows, _ = read_manifest(store, partition)
    cells = [row for row in rows if row.what == "cell" and (row.failed or row.crashed)]
    had = cells_of([one for one in retries if one.number in partition.retries], partition.shard)
    try:
        with ThreadPoolExecutor(READERS) as threads:
            items = list(threads.map(partial(_items, store, wanted), cells))
    except DamagedCell as error:
        raise SourceError("damaged_corpus", f"{error.message} {MEND}") from error
    left = {
        cell.path: [item for item in some if item not in had.get(cell.path, ())]
        for cell, some in zip(cells, items, strict=True)
    }
    return {folder: some for folder, some in left.items() if some}


def _items(store: Store, wanted: Wanted, cell: ManifestRecord) -> list[str]:
    """The items that a cell rejected and that are wanted. A mask of a photo is none: only a whole photo runs again."""
    return [
        row.item_id
        for row in rejects_in(store, sound_commit(store, cell.path))
        if wanted.takes(row.stage, row.kind, row.reason)
        and (row.stage != "segment" or image_of(row.item_id) == row.item_id)
    ]


def command_of(store: Store, partition: Partition, settings: Sequence[str]) -> Command:
    """How a shard was run, with other settings of resources and prices.

    Raises: ConfigError("retry_changed") for other settings than these, or if this would give other rows.
    """
    rows, origin = read_manifest(store, partition)
    if "max_objects" not in origin:
        raise changed(partition, "It was published by an earlier version.")
    before, config = load([], [], origin["settings"]), load([], settings, origin["settings"])
    if replace(before, resources=config.resources, price=config.price) != config:
        raise changed(partition, "`--set` of a retry takes settings of `resources` and `price` only.")
    now = {name: one.fingerprint for name, one in recipes(config).items()}
    if other := [
        name for name in {**now, **partition.fingerprints} if now.get(name) != partition.fingerprints.get(name)
    ]:
        raise changed(partition, f"The settings, the weights or the code of {', '.join(other)} have changed since.")
    (index,) = (row for row in rows if row.what == "cell" and row.stage == "index")
    ids = None if origin["ids"] is None else frozenset(origin["ids"])
    md5 = sound_commit(store, index.path).inputs.get("md5", "")
    selection = Selection(origin["max_objects"], ids, origin.get("sample_rate"))
    return Command(config, origin["preset"], selection, md5)


def changed(partition: Partition, why: str) -> ConfigError:
    return ConfigError(
        "retry_changed", f"The shard {partition.shard} cannot be retried. {why} Run it again: {partition.location}"
    )


def alike(commands: Mapping[str, Command]) -> list[list[str]]:
    """The shards, those together that one run can take: whose settings are the same, and of which all is wanted."""
    together: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for shard, command in commands.items():
        alone = "" if command.selection == Selection() else shard
        together[command.config.to_json(), command.preset, alone].append(shard)
    return list(together.values())

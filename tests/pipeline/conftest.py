"""A corpus of real cells whose objects are the truth itself, so that every number of it is known beforehand."""

import json
from functools import partial
from hashlib import sha256

import pytest
import torch
from PIL import Image

from anything3d.errors import NumericsError
from anything3d.mini.world import write_world
from anything3d.quality import truth_file
from anything3d.settings.reconstruct import POINT_E_FOV_DEG, FieldConfig
from anything3d.space.camera import orbit
from anything3d.space.cloud import from_ply
from anything3d.space.field import Field
from pipeline import cell
from pipeline.config import load
from pipeline.plan import shard_unit
from pipeline.release.corpus import Corpus
from pipeline.release.partition import Photos
from pipeline.release.publish import Made, publish_here
from pipeline.release.snapshot import MadeBy
from pipeline.stages import load as load_stage
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.truth import find_truth
from pipeline.unit import slices
from schemas.records import CaptionRecord, CloudRecord, ConceptRecord, FieldRecord, ObjectRecord

QUICK = ("segment.crop_size=32", "segment.max_edges=4", "segment.min_area_px=64", "score.size_px=16", "score.views=1")
CONFIG = load([], QUICK)  # none of them shapes the numbers against the truth
WRONG_AZIMUTH_DEG = 30.0
VIEW_PX = 32


def quiet(line: str) -> None:
    """Whom progress is told."""


class Told:
    """A stage whose rows are told: one function from an object's id to its row."""

    version = 1

    def __init__(self, name, row):
        self.name, self._row = name, row
        self.reads, self.record = recipes(CONFIG)[name].reads, recipes(CONFIG)[name].record

    def __call__(self, items, unit, checkpoint):
        rows = [self._row(item[0].object_id) for item in items]
        return [row if isinstance(row, NumericsError) else [row] for row in rows]


def camera_row(item, wrong_deg=0.0):
    focal = float(orbit(*(torch.tensor([value]) for value in (0.0, 0.0, 1.0, POINT_E_FOV_DEG))).intrinsics[0, 0])
    return (item.azimuth_deg + wrong_deg, item.elevation_deg, 2.7, focal, focal, 0.5, 0.5)


def shrink_views(folder):
    """Truth with views of VIEW_PX: what takes the time is rendering them."""
    body = json.loads((folder / "truth.json").read_bytes())
    body["views"]["size"] = VIEW_PX
    (folder / "truth.json").write_text(json.dumps(body))
    for path in (folder / "views").iterdir():
        Image.open(path).resize((body["views"]["count"] * VIEW_PX, VIEW_PX)).save(path)
    name_files(folder)


def name_files(folder):
    """Let truth.json name the files as they are."""
    body = json.loads((folder / "truth.json").read_bytes())
    for item in (item for image in body["images"].values() for item in image["objects"]):
        item["sha256"] = {name: sha256((folder / item[name]).read_bytes()).hexdigest() for name in item["sha256"]}
    (folder / "truth.json").write_text(json.dumps(body))


LICENCE = "Photos of the tests"
MADE_BY = MadeBy("run", "mini", {"seed": 0})


def made(shard, units, commits, **more) -> Made:
    """A shard that has come through all stages."""
    known = {
        "key": "",
        "note": "",
        "duplicates": [],
        "elsewhere": {},
        "photos": Photos("", "", commits["index"][0].digest),
    }
    return Made(shard=shard, units=units, commits=commits, made_by=MADE_BY, **known | more)


def publish(store, *shards):
    """The snapshot with these shards, beside those that the corpus has already."""
    corpus = Corpus(store)
    known = {one.shard.name: corpus.same(one.shard.name, one.digest) for one in shards}
    mine = {
        one.shard.name: one.named_anew(same) if (same := known[one.shard.name]) else publish_here(store, one)
        for one in shards
    }
    return corpus.publish(MADE_BY, mine)


class World:
    """A shard with its truth, and a corpus of three of its true objects and a mask that is none; one more was fog."""

    def __init__(self, folder):
        self.shard, self.truth, self.corpus = folder / "world.tar", folder / "world.truth", folder / "corpus"
        write_world(self.shard, scenes=3, seed=4, held_out=True, size=128)
        shrink_views(self.truth)
        self.says = truth_file.read((self.truth / "truth.json").read_bytes())
        self.items = {
            f"{image_id}-{item.annotation:04d}": item
            for image_id, image in self.says.images.items()
            for item in image.objects
        }
        self.store = Store(str(self.corpus))
        self.commits = {}
        self._make()

    def _make(self):
        self.unit = shard_unit(str(self.shard), licence=LICENCE)
        shard = self._run("index", self.unit)
        (images,) = slices(shard, self._ids(shard, "index", "image_id"), 64)
        segmented = self._run("segment", images)
        rows = self.store.read_part(self.commits["segment"][0].rows, ObjectRecord)
        true = [row.object_id for row in rows if row.object_id in self.items]
        self.known = [  # of an unseen pair; not turned by symmetry; and one more
            next(item for item in true if self.items[item].held_out),
            next(item for item in true if not self.items[item].held_out and self.items[item].symmetry_deg > 0),
            next(item for item in true if not self.items[item].held_out and self.items[item].symmetry_deg == 0),
        ]
        self.stranger = next(row.object_id for row in rows if find_truth(row, self.says) is None)
        self.fog = next(row.object_id for row in rows if row.object_id not in [*self.known, self.stranger])
        wanted = [*self.known, self.stranger, self.fog]
        self.units = [self._finish(unit) for unit in slices(segmented, wanted, 2)]
        self.snapshot = publish(self.store, self.made)

    @property
    def made(self):
        return made(self.unit, self.units, self.commits)

    def _finish(self, unit):
        """Through all later stages: those that have a method of their name here are told their rows, the others run."""
        for name in list(recipes(CONFIG))[2:]:
            row = getattr(self, f"_{name}", None)
            unit = self._run(name, unit, Told(name, row) if row else None)
        return unit

    def _run(self, name, unit, stage=None):
        recipe = recipes(CONFIG)[name]
        load = (lambda: stage) if stage else partial(load_stage, name, CONFIG.to_json(), "cpu")
        commit, _ = cell.run(recipe, unit, self.store, load)
        self.commits.setdefault(name, []).append(commit)
        return cell.as_input(recipe, unit, commit)

    def _ids(self, unit, stage, column):
        return self.store.read_column(self.store.commit_at(unit.inputs[stage].path).rows, column)

    def _ply(self, object_id):
        item = self.items.get(object_id) or self.items[self.known[0]]
        return (self.truth / item.surface).read_bytes(), item

    def _caption(self, object_id):
        item = self.items.get(object_id)
        return CaptionRecord(object_id, f"a {item.color} thing" if item else "a red mug", -1.0, "")

    def _invert(self, object_id):
        return ConceptRecord(object_id, b"", 0.5, 0.4 if object_id in self.items else 0.6, 1)

    def _lift(self, object_id):
        ply, item = self._ply(object_id)
        wrong = WRONG_AZIMUTH_DEG if object_id == self.known[1] else 0.0
        return CloudRecord(object_id, ply, 8192, 0, 1.0, *camera_row(item, wrong), 0)

    def _reconstruct(self, object_id):
        if object_id == self.fog:
            return NumericsError("field_fog", "told")
        field = Field.from_cloud(from_ply(self._ply(object_id)[0]), FieldConfig(resolution=32, half=0.6))
        return FieldRecord(object_id, field.to_bytes(0), 1, 1, "field", None, 0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """For reading only; whoever changes a corpus takes a copy."""
    return World(tmp_path_factory.mktemp("world"))

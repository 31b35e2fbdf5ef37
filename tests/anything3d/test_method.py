"""The method as a whole: the seven verbs on a batch of photos, and its front door."""

import ast
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import anything3d
from anything3d import MethodConfig, Object3D, Photo, lift_photos, load_method
from anything3d.errors import InputError, NumericsError, Skipped
from anything3d.method import each
from anything3d.mini.world import write_world
from anything3d.models.sam import load_sam
from anything3d.photo.annotated import AnnotatedPhoto, read_annotated
from pipeline.batch import NoCheckpoint
from pipeline.config import load
from pipeline.input.shard import Shard
from pipeline.input.tar import scan
from pipeline.photo import method_config, object_rows
from pipeline.stages import load as load_stage
from pipeline.stages import needed
from pipeline.stages.index import pair
from pipeline.unit import Input, Unit
from schemas.corpus import OBJECT_RECORDS
from schemas.records import ImageRecord, ObjectRecord

CONFIG = load(
    [],
    [
        "seed=3",
        "segment.max_edges=4",
        "segment.min_area_px=64",
        "segment.max_per_image=2",
        "segment.crop_size=64",
        "invert.steps=2",
        "lift.candidates=1",
        "lift.steps=3",
        "lift.upsampler_steps=2",
        "reconstruct.steps=2",
        "reconstruct.min_opacity=0.0",
        "reconstruct.max_fog=1.0",
        "score.points=256",
        "score.size_px=32",
        "score.views=2",
    ],
)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "world.tar"
    write_world(path, scenes=1, seed=14, size=128)  # both objects may go on without being seen
    return Shard(str(path))


@pytest.fixture(scope="module")
def image(shard):
    """The row of the shard's photo."""
    (row,) = pair(scan(shard), "world", CONFIG.index)
    assert isinstance(row, ImageRecord)
    return row


@pytest.fixture(scope="module")
def photo(shard, image):
    """The photo with its own masks, all of which are wanted."""
    parts = [(image.jpg_offset, image.jpg_size), (image.json_offset, image.json_size)]
    read = read_annotated(*shard.read_ranges(parts), image.image_id, CONFIG.segment.limits)
    assert isinstance(read, AnnotatedPhoto)
    return Photo(image.image_id, read.image, "all", read.entries)


@pytest.fixture(scope="module")
def method():
    torch.set_num_threads(1)
    return load_method(replace(method_config(CONFIG), segment=CONFIG.segment), CONFIG.place())


def rows_of_the_stages(shard, image):
    """Object id -> stage -> row: each stage of the pipeline is called once, with all objects."""
    unit = Unit("world", (), {"shard": Input(shard.location, ""), "truth": Input("", "")})
    rows = {}
    for stage in (stage for stage in needed(CONFIG) if stage.name in OBJECT_RECORDS):
        call = partial(load_stage(stage.name, CONFIG.to_json(), "cpu"), unit=unit, checkpoint=NoCheckpoint())
        if stage.name == "segment":
            (outcome,) = call([(image,)])
            rows = {row.object_id: {"segment": row} for row in outcome if isinstance(row, ObjectRecord)}
            continue
        reads = [name for name in stage.reads(CONFIG) if name in OBJECT_RECORDS]
        outcomes = call([tuple(known[name] for name in reads) for known in rows.values()])
        for known, (row,) in zip(rows.values(), outcomes, strict=True):
            known[stage.name] = row
    return rows


def test_objects_are_those_of_the_stages_bit_for_bit(shard, image, photo, method):
    objects = lift_photos([photo], method)
    made = {name: one for name, one in objects.items() if isinstance(one, Object3D)}
    assert len(made) == 2
    assert {type(one) for one in objects.values()} == {Object3D, Skipped}
    expected = rows_of_the_stages(shard, image)
    assert all(known["segment"].unseen_png for known in expected.values())
    assert made.keys() == expected.keys()
    for name, one in made.items():
        rows = object_rows(one, "world", CONFIG.reconstruct.steps)
        for stage, row in expected[name].items():
            assert getattr(rows, stage) == row, stage


def test_a_photo_that_fails_is_an_error_under_its_name(photo, method):
    with_sam = replace(method, segmenter=replace(method.segmenter, sam=load_sam("sam", CONFIG.place())))
    beyond, bare = replace(photo, name="beyond", wanted=(500.0, 0.0)), replace(photo, name="bare", annotations=())
    objects = lift_photos([beyond, bare], with_sam)
    assert {name: (type(error), error.reason) for name, error in objects.items()} == {
        "beyond": (InputError, "prompt_outside"),
        "bare": (Skipped, "no_mask"),
    }


def test_each_calls_a_verb_with_the_objects_that_have_every_value():
    lost, void = NumericsError("lost", "a"), InputError("void", "b")
    calls = []

    def add(ids, left, right):
        calls.append(ids)
        return [a + b if a else lost for a, b in zip(left, right, strict=True)]

    left, right = {"x": 1, "y": void, "z": 0, "w": 5}, {"x": 2, "y": lost, "z": 3, "w": lost}
    assert each(add, left, right) == {"x": 3, "y": void, "z": lost, "w": lost}
    assert calls == [["x", "z"]]
    assert each(add, {"y": void}, {"y": 1}) == {"y": void}
    assert len(calls) == 1


def test_weights_are_all_that_is_loaded():
    assert MethodConfig().weights == ("blip", "clip", "diffusion", "dino", "pointe", "pointe-upsampler", "sam")


def test_the_front_door_has_every_name_and_loads_no_torch():
    assert all(getattr(anything3d, name).__name__ == name for name in anything3d.__all__)
    tree = ast.parse(Path(anything3d.__file__).read_text())
    imported = [entry.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for entry in node.names]
    assert sorted(filter(None, imported)) == sorted(anything3d.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = anything3d.nothing
    code = "import sys, anything3d, anything3d.errors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "False"

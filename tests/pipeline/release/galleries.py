"""Corpora for the gallery: cells of stages that do nothing but give rows whose looks and numbers are known."""

import io
from dataclasses import replace
from functools import cache, partial

import numpy as np
from PIL import Image, ImageDraw

from anything3d.errors import NumericsError
from anything3d.space.mesh import Mesh, to_glb
from pipeline import cell, nothing
from pipeline.config import load
from pipeline.plan import image_ids, object_ids, photo_units, shard_unit
from pipeline.release.corpus import Corpus
from pipeline.release.partition import Photos
from pipeline.release.publish import Made, publish_here
from pipeline.release.snapshot import MadeBy
from pipeline.stages import recipes
from pipeline.store import Store
from pipeline.unit import slices

COLORS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 80, 230), "yellow": (235, 200, 40)}
SHAPES = ("box", "lamp", "mug", "ball", "cone")
HOSTILE = '<img src=x onerror="document.title=1">\u2028</script><script>document.title=2</script> & "quoted"'
MADE_BY = MadeBy("run", "mini", {"seed": 0})
CROP_PX = 96  # pictures are small, so that 10,000 of them are made in a test


def number_of(object_id):
    """Its place among all objects: photos have two each."""
    photo, _, own = object_id.removeprefix("sa_").partition("-")
    return 2 * int(photo) + int(own)


def color_of(number):
    return list(COLORS)[number % len(COLORS)]


def psnr_of(number):
    """A score whose order is not that of the objects."""
    return 10 + (number * 7919 % 10007) / 500


@cache
def pictures(color):
    """Crop, render, turntable of one colour: a disc on a grey photo."""
    crop = Image.new("RGBA", (CROP_PX, CROP_PX), (120, 120, 120, 0))
    draw = ImageDraw.Draw(crop)
    draw.ellipse((20, 20, 76, 76), fill=(*COLORS[color], 255))
    render = Image.new("RGBA", (CROP_PX, CROP_PX))
    ImageDraw.Draw(render).rectangle((24, 24, 72, 72), fill=(*COLORS[color], 255))
    turntable = io.BytesIO()
    render.convert("RGB").save(turntable, "WEBP")
    return _png(crop), _png(render), turntable.getvalue()


def _png(picture):
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


@cache
def glb(color):
    """A cube of one colour, counter-clockwise seen from outside."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], np.float32)
    quads = [(4, 6, 7, 5), (0, 1, 3, 2), (2, 3, 7, 6), (0, 4, 5, 1), (1, 5, 7, 3), (0, 2, 6, 4)]
    faces = np.array([triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))])
    return to_glb(Mesh(corners, faces, np.tile(np.array(COLORS[color], np.float32) / 255, (8, 1))))


class Known(nothing.Nothing):
    """A stage that does nothing, whose rows differ from object to object. `fail` is the share that mesh rejects."""

    def __init__(self, name, every):
        super().__init__(name)
        self._name, self._every = name, every

    def __call__(self, items, unit, checkpoint):
        return [self._known(outcome) for outcome in super().__call__(items, unit, checkpoint)]

    def _known(self, rows):
        if self._name == "segment":
            return [replace(row, crop_png=pictures(color_of(number_of(row.object_id)))[0]) for row in rows]
        (row,) = rows
        number = number_of(row.object_id)
        color = color_of(number)
        if self._name == "mesh" and self._every and number % self._every == self._every - 1:
            return NumericsError("empty_surface", f"object {number} has no surface <b>at all</b>")
        if self._name == "caption":
            text = HOSTILE if number == 3 else f"a {color} {SHAPES[number % len(SHAPES)]}"
            return [replace(row, caption=text)]
        if self._name == "mesh":
            return [replace(row, glb=glb(color), faces=12, vertices=8)]
        if self._name == "score":
            _, render, turntable = pictures(color)
            psnr = psnr_of(number)
            return [replace(row, render_png=render, turntable_webp=turntable, mesh_psnr_db=psnr, mesh_mask_iou=0.5)]
        return rows


def make(folder, photos, per_shard, every=0, made_by=MADE_BY):
    """A corpus of two objects of each photo, in the folder `corpus`; every so-many-th object is rejected by mesh."""
    config, store = load([], []), Store(str(folder / "corpus"))
    known, corpus = recipes(config), Corpus(store)

    def through(stage, unit, commits):
        load_it = (
            partial(nothing.load, stage, config.to_json(), "cpu") if stage == "index" else partial(Known, stage, every)
        )
        commit, _ = cell.run(known[stage], unit, store, load_it)
        commits.setdefault(stage, []).append(commit)
        return cell.as_input(known[stage], unit, commit)

    mine = {}
    for location in nothing.write_shards(str(folder / "shards"), photos, per_shard):
        commits, units = {}, []
        shard = through("index", shard_unit(location), commits)
        for images in photo_units(shard, image_ids(shard, store), store, 1000):
            segmented = through("segment", images, commits)
            for unit in slices(segmented, object_ids(segmented, store), 1000):
                for stage in list(known)[2:]:
                    unit = through(stage, unit, commits)
                units.append(unit)
        ids = image_ids(shard, store)
        photos_of_it = Photos(min(ids), max(ids), commits["index"][0].digest)
        one = Made(
            shard=shard,
            key="",
            note="",
            units=units,
            commits=commits,
            duplicates=[],
            elsewhere={},
            photos=photos_of_it,
            made_by=made_by,
        )
        mine[shard.name] = publish_here(store, one)
    return store, corpus.publish(made_by, mine)

"""Variants of the settings: how their file is read. What running them gives is in tests/jobs/test_ablate.py."""

import shutil

import pytest

from anything3d.errors import ConfigError
from jobs.ablate import ABLATIONS
from pipeline.ablate import ablate, read_variants
from pipeline.config import Config
from pipeline.plan import Selection
from pipeline.store import Store
from tests.pipeline.test_run import index

LAYER = "[caption]\nbeams = 2\n"


def test_every_variant_is_a_config_of_its_own_over_the_same_layers():
    text = '[[variant]]\nname = "full"\nsettings = []\n[[variant]]\nname = "bare"\nsettings = ["invert.steps=0"]\n'
    full, bare = read_variants(text, [LAYER], ["lift.candidates=2"])
    assert (full.name, bare.name) == ("full", "bare")
    config = bare.config(seed=7)
    assert (config.seed, config.caption.beams, config.lift.candidates, config.invert.steps) == (7, 2, 2, 0)
    assert full.config(seed=7).invert.steps > 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "variant"),
        ("not toml", "variant"),
        ('[[variant]]\nname = "x"\n', "settings"),
        ('[[variant]]\nname = "x"\nsettings = []\n[[variant]]\nname = "x"\nsettings = []\n', "names that differ"),
        ('[[variant]]\nname = "x"\nsettings = ["invert.stepz=0"]\n', "invert.steps"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read_variants(text, [], [])


@pytest.mark.parametrize("file", sorted(ABLATIONS.glob("*.toml")), ids=lambda file: file.name)
def test_packaged_variants_are_read_and_all_differ(file):
    variants = read_variants(file.read_text(), [], [])
    configs = [variant.config(seed=0) for variant in variants]
    assert configs[0] == Config()  # the preset itself comes first
    assert all(left != right for place, left in enumerate(configs) for right in configs[:place])


def test_only_the_objects_of_its_own_shards_count(world, tmp_path):
    out, shard = shutil.copytree(world.corpus, tmp_path / "corpus"), tmp_path / "sa_0.tar"
    shard.write_bytes(bytes(2000))  # no tar, so that its index is all there is to do
    (variant,) = read_variants('[[variant]]\nname = "full"\nsettings = []\n', [], [])
    index(variant.config(0), Store(str(out)), [str(shard)])
    reports = []
    (measured,) = ablate([variant], [0], [str(shard)], str(out), [str(world.truth)], Selection(), judge=reports.append)
    assert reports[0].snapshot.objects > 0  # those of the shard that was there before
    assert measured.objects == 0


def test_the_baseline_without_distillation_is_among_them():
    names = [variant.name for variant in read_variants((ABLATIONS / "mini.toml").read_text(), [], [])]
    assert "without SDS" in names

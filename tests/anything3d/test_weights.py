"""Weights: found by name, checked by digest, missing ones named; and randomness that belongs to an item."""

import shutil

import pytest
import torch

from anything3d import seed, weights
from anything3d.errors import WeightsError
from anything3d.weights import Place, digest, directory


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A copy of two packaged weights with their manifest, in place of the package's own."""
    for name in ("sam", "clip"):
        shutil.copytree(weights.PACKAGED / name, tmp_path / name)
    shutil.copy(weights.PACKAGED / "manifest.json", tmp_path)
    monkeypatch.setattr(weights, "PACKAGED", tmp_path)
    return tmp_path


def test_every_packaged_file_is_the_one_in_the_manifest():
    names = [path.name for path in weights.PACKAGED.iterdir() if path.is_dir()]
    assert sorted(names) == ["blip", "clip", "diffusion", "pointe", "pointe-upsampler", "sam"]
    for name in names:
        assert directory(name, Place()) == weights.PACKAGED / name
    total = sum(path.stat().st_size for path in weights.PACKAGED.rglob("*") if path.is_file())
    assert total < 16e6


def test_a_changed_file_is_refused_by_name(packaged):
    data = bytearray((packaged / "sam" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (packaged / "sam" / "model.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"sam: model\.safetensors"):
        directory("sam", Place())
    assert directory("clip", Place()) == packaged / "clip"


def test_missing_weights_say_where_they_were_looked_for(tmp_path):
    with pytest.raises(WeightsError, match=r"blip-large.*resources\.weights_root"):
        directory("blip-large", Place(weights_root=str(tmp_path)))


def test_a_folder_under_the_root_is_found_and_its_digest_is_of_its_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"same")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.safetensors").write_bytes(b"other")
    place = Place(weights_root=str(tmp_path))
    assert directory("a", place) == tmp_path / "a"
    assert digest("a", place) == digest("b", place) != digest("c", place)


def test_an_items_noise_does_not_depend_on_its_neighbours():
    together = seed.randn((3,), seed.generators(1, "lift", ["a", "b"]))
    alone = seed.randn((3,), seed.generators(1, "lift", ["b"]))
    assert torch.equal(together[1], alone[0])
    for other in (seed.generators(2, "lift", ["b"]), seed.generators(1, "invert", ["b"])):
        assert not torch.equal(seed.randn((3,), other), alone)
    assert seed.rand((), seed.generators(1, "x", ["a"])).shape == (1,)

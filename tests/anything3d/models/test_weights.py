"""Weights: found by name, checked by digest, missing ones named; and randomness that belongs to an item."""

import ctypes
import json
import os
import shutil
import struct
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from anything3d import seed
from anything3d.backend import load_captioner
from anything3d.errors import WeightsError
from anything3d.models import pointe, weights
from anything3d.models.clip import load_clip
from anything3d.models.diffusion import load_denoiser
from anything3d.models.dino import load_dino
from anything3d.models.sam import load_sam
from anything3d.models.weights import Place, digest, directory
from anything3d.settings.caption import CaptionConfig


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
    assert sorted(names) == ["blip", "clip", "diffusion", "dino", "pointe", "pointe-upsampler", "sam", "taesd"]
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


def save(path: Path, value: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"a": torch.full((3,), value)}, path)


@pytest.mark.parametrize(
    "suffix", ["safetensors", "ckpt", "pth", "pt", "bin", "json", "txt", "model", "spm", "jinja", ""]
)
def test_every_file_that_a_loader_may_open_is_part_of_the_digest(tmp_path, suffix):
    path = tmp_path / "net" / "part" / (f"file.{suffix}" if suffix else "file")
    save(tmp_path / "net" / "one.pt")
    found = set()
    for value in (0.0, 1.0):
        save(path, value)
        found.add(digest("net", Place(weights_root=str(tmp_path))))
    assert len(found) == 2


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", "LICENSE.txt", ".DS_Store", ".cache/huggingface/x.json", "a.png"]
)
def test_what_no_loader_opens_is_not(tmp_path, name):
    save(tmp_path / "net" / "one.pt")
    before = digest("net", Place(weights_root=str(tmp_path)))
    (tmp_path / "net" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "net" / name).write_bytes(b"?")
    assert digest("net", Place(weights_root=str(tmp_path))) == before


def test_links_to_files_and_folders_are_followed_but_for_loops(tmp_path):
    save(tmp_path / "blobs" / "1", 1.0)
    save(tmp_path / "elsewhere" / "unet" / "b.pt", 2.0)
    net = tmp_path / "net"
    save(net / "part" / "a.pt", 3.0)
    (net / "model.bin").symlink_to("../blobs/1")
    (net / "unet").symlink_to(tmp_path / "elsewhere" / "unet", target_is_directory=True)
    (net / "twice").symlink_to(tmp_path / "elsewhere" / "unet", target_is_directory=True)
    (net / "part" / "up").symlink_to(net, target_is_directory=True)
    (net / "part" / "here").symlink_to(".", target_is_directory=True)
    (net / "gone.pt").symlink_to("nowhere")
    assert list(weights.file_digests(net)) == ["model.bin", "part/a.pt", "twice/b.pt", "unet/b.pt"]
    (tmp_path / "only_links").mkdir()
    (tmp_path / "only_links" / "unet").symlink_to(tmp_path / "elsewhere" / "unet", target_is_directory=True)
    before = digest("only_links", Place(weights_root=str(tmp_path)))
    save(tmp_path / "elsewhere" / "unet" / "b.pt", 4.0)
    assert digest("only_links", Place(weights_root=str(tmp_path))) != before


def test_a_file_that_is_written_again_is_read_again_and_others_are_not(tmp_path, monkeypatch):
    place, path = Place(weights_root=str(tmp_path)), tmp_path / "net" / "one.pt"
    save(path)
    first = digest("net", place)
    save(path, 1.0)  # as many bytes, at once
    second = digest("net", place)
    assert second != first

    read = []
    monkeypatch.setattr(weights, "SETTLED_NS", -(10**12))  # as if it lay there for long
    monkeypatch.setattr(weights, "_sha256", lambda path: read.append(path.name) or "")
    assert digest("net", place) == digest("net", place)
    assert read == ["one.pt"]
    save(path, 2.0)
    digest("net", place)
    assert read == ["one.pt", "one.pt"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    save(tmp_path / "net" / "one.pt")
    (tmp_path / "net" / "part").mkdir()

    def iterdir(folder: Path):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", iterdir)  # the tests may run as root
    with pytest.raises(WeightsError, match=r"weights_unreadable: .*net"):
        digest("net", Place(weights_root=str(tmp_path)))


class Opened:
    """The files below `folder` that this process opens, by whatever means, by their path relative to it (Linux).

    safetensors and tokenizers read files without Python's `open`, so that no audit hook sees them; inotify does.
    """

    OPEN = 0x20

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watch = self._libc.inotify_init1(os.O_NONBLOCK)
        self._folders: dict[int, str] = {}
        for inside in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            number = self._libc.inotify_add_watch(self._watch, os.fsencode(inside), self.OPEN)
            assert number > 0
            self._folders[number] = "" if inside == folder else f"{inside.relative_to(folder).as_posix()}/"

    def names(self) -> set[str]:
        events, found = os.read(self._watch, 2**20), set()
        while events:
            number, mask, _, length = struct.unpack("iIII", events[:16])
            name = events[16 : 16 + length].rstrip(b"\0").decode()
            if name and not mask & 0x40000000:  # not a folder
                found.add(self._folders[number] + name)
            events = events[16 + length :]
        os.close(self._watch)
        return found


HOOKED: list[str] = []
HOOKS: list[bool] = []  # an audit hook cannot be taken away again; while this is empty it does nothing


def hook(event: str, arguments: tuple) -> None:
    if HOOKS and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        HOOKED.append(os.fsdecode(arguments[0]))


sys.addaudithook(hook)


def load_blip(name: str, place: Place) -> None:
    load_captioner(CaptionConfig(weights=name), place)


def injector(folder: Path) -> None:
    """A ControlNet as its authors write it, which does not fit: it is opened before that is found."""
    shutil.rmtree(folder / "controlnet")
    save(folder / "controlnet" / "injector.ckpt")
    save(folder / "controlnet" / "._injector.ckpt")


def halved(folder: Path) -> None:
    """The UNet's tensors in two shards, and those of the VAE as a pickle."""
    from safetensors.torch import load_file, save_file

    unet, vae = (folder / part / "diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))
    tensors = load_file(unet)
    names = {
        key: f"diffusion_pytorch_model-0000{1 + place % 2}-of-00002.safetensors" for place, key in enumerate(tensors)
    }
    for shard in set(names.values()):
        save_file({key: tensors[key] for key in names if names[key] == shard}, unet.parent / shard, {"format": "pt"})
    unet.with_name(f"{unet.name}.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": names})
    )
    torch.save(load_file(vae), vae.with_suffix(".bin"))
    unet.unlink()
    vae.unlink()


def as_published(folder: Path) -> None:
    """One official .pt file: its name says what it is; it does not fit either."""
    shutil.rmtree(folder)
    save(folder / "base_40m.pt")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify")
@pytest.mark.parametrize(
    ("name", "load", "change"),
    [
        ("sam", load_sam, None),
        ("clip", load_clip, None),
        ("dino", load_dino, None),
        ("blip", load_blip, None),
        ("diffusion", load_denoiser, None),
        ("diffusion", load_denoiser, injector),
        ("diffusion", load_denoiser, halved),
        ("pointe", pointe.load_point_denoiser, None),
        ("pointe", pointe.load_point_denoiser, as_published),
        ("pointe-upsampler", pointe.load_point_denoiser, None),
    ],
)
def test_what_is_opened_is_what_is_hashed(tmp_path, name, load, change):
    folder = shutil.copytree(weights.PACKAGED / name, tmp_path / "net")
    if change:
        change(folder)
    hashed = set(weights.file_digests(folder))
    opened = Opened(folder)
    HOOKED.clear()
    HOOKS.append(True)
    with pytest.raises(WeightsError) if change in (injector, as_published) else nullcontext():
        load(str(folder), Place())
    HOOKS.clear()
    names = opened.names()
    assert names <= hashed
    tensors = {path for path in hashed if Path(path).suffix != ".json"}
    assert tensors - names == ({"text_encoder/model.safetensors"} if change is injector else set())
    elsewhere = [
        path for path in HOOKED if Path(path).suffix in weights.SUFFIXES and not path.startswith(str(tmp_path))
    ]
    packages = Path(torch.__file__).parents[1]
    assert [path for path in elsewhere if not Path(path).is_relative_to(packages)] == []

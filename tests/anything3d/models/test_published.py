"""The official weights at full size, on the meta device: what we expect of a download is what the networks need."""

import subprocess
import sys

import pytest
import torch

from anything3d.errors import WeightsError
from anything3d.models import pointe
from anything3d.models.published import PUBLISHED, wrong_files
from anything3d.models.sam import load_sam
from anything3d.models.weights import Place
from tests.full_size import NETWORKS


@pytest.mark.parametrize("file", NETWORKS, ids=lambda file: "/".join(file))
def test_a_published_file_is_as_large_as_its_network(file):
    build, tensors = NETWORKS[file]
    with torch.device("meta"):
        state = build().state_dict()
    (stated,) = (entry.megabytes for entry in PUBLISHED[file[0]].files if entry.path == file[1])
    wide = 2 if ".fp16." in file[1] else 4  # all others are published in float32
    bytes_needed = sum(value.numel() * wide for value in state.values())
    assert tensors in (None, len(state))
    assert stated == pytest.approx(bytes_needed / 1e6, abs=1)


def test_every_large_file_is_tried():
    assert {(name, file.path) for name, official in PUBLISHED.items() for file in official.files if file.megabytes} == (
        NETWORKS.keys()
    )


def test_missing_and_changed_files_are_named_and_other_names_are_not_ours():
    file = PUBLISHED["sam-vit-b"].files[0]
    whole, sizes = {file.path: file.sha256, "notes.txt": "0"}, {file.path: 375_042_383, "notes.txt": 1}
    assert wrong_files("sam-vit-b", sizes, whole) == []
    assert wrong_files("sam-vit-b", sizes, {file.path: "0"}) == [file.path]
    assert wrong_files("sam-vit-b", {}, {}) == [file.path]
    assert wrong_files("my-sam", {}, {}) == []


def test_where_no_digest_is_known_the_size_is_checked_and_where_it_is_not_known_either_nothing():
    (file,) = PUBLISHED["point-e-40m"].files
    assert file.checked == "size only"
    assert wrong_files("point-e-40m", {file.path: 162_500_000}, {file.path: "any"}) == []
    assert wrong_files("point-e-40m", {file.path: 130_000_000}, {file.path: "any"}) == [file.path]
    settings = PUBLISHED["blip-base"].files[0]
    assert (settings.path, settings.checked) == ("config.json", "not checked")
    assert "config.json" in wrong_files("blip-base", {settings.path: 0}, {settings.path: "any"})
    assert "config.json" not in wrong_files("blip-base", {settings.path: 9}, {settings.path: "any"})
    guessed = PUBLISHED["stable-diffusion-2.1-base"].files[-1]
    assert guessed.checked == "not checked"
    assert guessed.has_size(728_000_000)


LOAD = """
import resource, sys, torch
from anything3d.models import pointe
from anything3d.errors import WeightsError
from anything3d.models.sam import load_sam
from anything3d.models.weights import Place
from tests.full_size import NETWORKS

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

kind, folder, dtype = sys.argv[1:]
import segment_anything.modeling
before = peak_mb()
load = {"sam": load_sam, "denoiser": pointe.load_point_denoiser}[kind]
found = load(folder, Place(dtype=dtype))
network = found.network if kind == "sam" else found
total = sum(float(value.detach().double().sum()) for value in network.parameters())
part = network.image_encoder if kind == "sam" else network
print(peak_mb() - before, total, {value.dtype for value in part.parameters()} == {getattr(torch, dtype)})
"""


@pytest.mark.parametrize(
    ("kind", "name", "dtype"),
    [
        ("sam", "sam-vit-b", "float32"),
        ("sam", "sam-vit-b", "bfloat16"),
        ("denoiser", "point-e-40m", "float32"),
        ("denoiser", "point-e-upsample", "bfloat16"),
    ],
)
def test_an_official_file_at_full_size_loads_within_its_own_memory(tmp_path, kind, name, dtype):
    """Random numbers in the official layout, through the real path, in a process of its own."""
    path = tmp_path / PUBLISHED[name].files[0].path
    with torch.device("meta"):
        official = NETWORKS[name, path.name][0]()
    state = {key: torch.rand(value.shape) - 0.5 for key, value in official.state_dict().items()}
    learnt = {key for key, _ in official.named_parameters()}
    expected = sum(float(value.double().sum()) for key, value in state.items() if key in learnt)
    torch.save(state, path)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, kind, str(tmp_path), dtype], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown, total, right_dtype = done.stdout.split()
    assert right_dtype == "True"
    assert float(total) == pytest.approx(expected, rel=1e-2 if dtype == "bfloat16" else 1e-6, abs=50)
    assert float(grown) < 1.3 * path.stat().st_size / 2**20 + 40, (grown, path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "load", "key"),
    [
        ("sam-vit-b", load_sam, "mask_decoder.iou_token.weight"),
        ("point-e-300m", pointe.load_point_denoiser, "backbone.resblocks.23.attn.c_qkv.bias"),
    ],
)
@pytest.mark.parametrize("fault", ["missing", "another shape"])
def test_an_official_file_with_a_faulty_tensor_is_refused_by_both_names(tmp_path, name, load, key, fault):
    path = tmp_path / PUBLISHED[name].files[0].path
    with torch.device("meta"):
        state = NETWORKS[name, path.name][0]().state_dict()
    tensors = {name: torch.zeros(1).expand(value.shape) for name, value in state.items()}  # one number is stored
    del tensors[key]
    if fault == "another shape":
        tensors[key] = torch.zeros(7)
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match=rf"(?s)weights_mismatch.*{path.name}: .*{key}"):
        load(str(tmp_path), Place())


@pytest.mark.parametrize(("kind", "load"), [("pointe", pointe.load_point_denoiser), ("sam", load_sam)])
def test_an_official_file_with_code_in_it_is_refused_and_does_not_run(tmp_path, capsys, kind, load):
    class Payload:
        def __reduce__(self):
            return print, ("this ran",)

    path = tmp_path / {"pointe": "base_40m.pt", "sam": "sam_vit_b_01ec64.pth"}[kind]
    torch.save({"image_encoder.pos_embed": Payload()}, path)
    with pytest.raises(WeightsError, match=path.name):
        load(str(tmp_path), Place())
    assert "this ran" not in capsys.readouterr().out

"""DINOv2: ours beside transformers' own, in the official layout at toy size; and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from anything3d.errors import WeightsError
from anything3d.mini import clip as mini_clip
from anything3d.mini import dino as mini
from anything3d.models.dino import Dino, load_dino
from anything3d.models.weights import Place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the owner lays it out, at toy size: more positions than patches of what the image processor makes."""
    from transformers import Dinov2Config, Dinov2Model

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=98, patch_size=14, layerscale_value=1.0
    )
    Dinov2Model(config).save_pretrained(path)
    settings = {
        "image_processor_type": "BitImageProcessor",
        "do_center_crop": True,
        "crop_size": {"height": 56, "width": 56},
        "size": {"shortest_edge": 64},
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "image_mean": list(mini.MEAN),
        "image_std": list(mini.STD),
    }
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def dino(folder: Path) -> Dino:
    return load_dino(str(folder), Place())


def pictures(count: int, size: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(size))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def copy(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_an_official_folder_at_toy_size_says_what_transformers_says(folder: Path, dino: Dino):
    from transformers import AutoImageProcessor, AutoModel

    image = (pictures(3, 80) * 255).round().to(torch.uint8)
    pixels = AutoImageProcessor.from_pretrained(folder, local_files_only=True)(image, return_tensors="pt")
    assert pixels["pixel_values"].shape == (3, 3, 56, 56)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder, local_files_only=True).eval()(**pixels).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(expected, dim=-1)
    found = dino.image_embeddings(image / 255)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)  # transformers rounds to 8 bits on the way
    assert (found[0] - found[1]).norm() > 0.02  # and pictures are told apart


def test_pictures_of_several_sizes_are_one_pass_and_do_not_change_each_other(dino: Dino):
    batches = pictures(1, 100), pictures(2, 56), pictures(1, 40)
    calls = []
    hook = dino.network.register_forward_hook(lambda network, inputs, output: calls.append(1))
    together = dino.image_embeddings(*batches)
    hook.remove()
    assert len(calls) == 1
    torch.testing.assert_close(together, torch.cat([dino.image_embeddings(batch) for batch in batches]))
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(4))


def test_in_bfloat16_it_is_frozen_and_says_nearly_the_same(folder: Path, dino: Dino):
    half = load_dino(str(folder), Place(dtype="bfloat16"))
    assert half.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in half.network.parameters())
    found = half.image_embeddings(pictures(2, 56))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dino.image_embeddings(pictures(2, 56)), rtol=0, atol=0.02)


def test_the_mini_folder_is_read_alike_and_its_halves_are_its_numbers(tmp_path: Path):
    network = mini.build(3)
    mini.save(network, tmp_path)
    loaded = load_dino(str(tmp_path), Place())
    assert loaded.preprocess.crop_px == loaded.preprocess.resize_px == mini.IMAGE_PX
    for a, b in zip(network.parameters(), loaded.network.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a.half().float(), b)
    assert loaded.is_sound()


@pytest.mark.parametrize(("size", "crop"), [(64, 57), (48, 56)])
def test_an_image_processor_that_does_not_fit_is_refused(folder: Path, tmp_path: Path, size: int, crop: int):
    settings = json.loads((copy(folder, tmp_path) / "preprocessor_config.json").read_text())
    settings |= {"size": {"shortest_edge": size}, "crop_size": {"height": crop, "width": crop}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match=rf"weights_mismatch.*{crop} px out of {size} px.*patches of 14 px"):
        load_dino(str(tmp_path), Place())


def test_another_network_and_a_missing_tensor_are_refused(folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    mini_clip.save(mini_clip.build(0), tmp_path / "clip")
    with pytest.raises(WeightsError, match=r"weights_unsupported.*'clip'; supported: dinov2"):
        load_dino(str(tmp_path / "clip"), Place())
    tensors = load_file(copy(folder, tmp_path) / "model.safetensors")
    del tensors["encoder.layer.1.mlp.fc1.bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"encoder\.layer\.1\.mlp\.fc1\.bias"):
        load_dino(str(tmp_path), Place())


def test_the_official_weights_have_a_source():
    with pytest.raises(WeightsError, match="anything3d weights where dinov2-base"):
        load_dino("dinov2-base", Place())

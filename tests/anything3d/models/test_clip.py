"""CLIP: the tensor preprocessing against transformers' own, the two towers, the toy tokenizers."""

import json
from pathlib import Path

import pytest
import torch

from anything3d.errors import WeightsError
from anything3d.mini import clip as mini
from anything3d.mini.tokens import clip_vocabulary, save_bert_tokenizer, save_clip_tokenizer
from anything3d.mini.words import CAPTION_WORDS
from anything3d.models.clip import Clip, load_clip
from anything3d.models.pretrained import Preprocessor
from anything3d.models.weights import Place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("clip")
    mini.save(mini.build(0), path)
    return path


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(str(folder), Place())


@pytest.mark.parametrize("shape", [(64, 64), (200, 200), (130, 97), (40, 90)])
def test_preprocessing_equals_the_image_processor_of_transformers(folder: Path, clip: Clip, shape: tuple[int, int]):
    from transformers import CLIPImageProcessor

    torch.manual_seed(1)
    coarse = torch.rand(2, 3, 9, 9)
    image = (torch.nn.functional.interpolate(coarse, shape, mode="bilinear") * 255).round().to(torch.uint8)
    expected = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)(image, return_tensors="pt")
    # transformers resizes in 8 bits and rounds after each of the two passes: one step over the smallest deviation
    torch.testing.assert_close(clip.preprocess(image / 255), expected["pixel_values"], rtol=0, atol=1.1 / 255 / 0.26)


def test_preprocessing_of_a_white_image_is_white_minus_mean_over_std():
    preprocess = Preprocessor(resize_px=4, crop_px=2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 0.1))
    pixels = preprocess(torch.ones(1, 3, 8, 16))
    assert pixels.shape == (1, 3, 2, 2)
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.0, 3.0, 10.0]))


def test_image_grid_is_the_last_hidden_state_without_the_class_token(clip: Clip):
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    grid = clip.image_grid(rgb)
    assert grid.shape == (2, clip.grid_feature_dim, clip.grid_size**2) == (2, 128, 64)
    with torch.no_grad():
        states = clip.vision(pixel_values=clip.preprocess(rgb)).last_hidden_state
    torch.testing.assert_close(grid[1, :, 10], states[1, 11])


def test_embeddings_equal_those_of_the_whole_model(folder: Path, clip: Clip):
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    rgb = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        output = model(pixel_values=clip.preprocess(rgb), input_ids=torch.tensor([[0, 1]]))
    torch.testing.assert_close(clip.image_embeddings(rgb), output.image_embeds)
    torch.testing.assert_close(clip.image_embeddings(rgb).norm(dim=-1), torch.ones(2))


def test_loaded_networks_are_frozen_and_of_the_places_dtype(folder: Path):
    clip = load_clip(str(folder), Place(dtype="bfloat16"))
    assert clip.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in clip.vision.parameters())
    assert clip.image_embeddings(torch.rand(1, 3, 64, 64)).dtype == torch.float32


def test_weights_without_a_tensor_are_refused(folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"visual_projection\.weight"):
        load_clip(str(tmp_path), Place())
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header, cut")
    with pytest.raises(WeightsError, match="weights_broken"):
        load_clip(str(tmp_path), Place())


def test_an_image_processor_of_another_size_is_refused(folder: Path, tmp_path: Path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    settings |= {"size": 224, "crop_size": 224}  # the form of the official folders
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match="224 px"):
        load_clip(str(tmp_path), Place())


def test_every_word_of_the_mini_world_is_one_token_and_other_text_still_encodes(tmp_path: Path):
    from transformers import BertTokenizer, CLIPTokenizer

    save_clip_tokenizer(tmp_path / "clip", 16)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "clip", local_files_only=True)
    assert tokenizer.model_max_length == 16
    vocabulary = clip_vocabulary()
    for word in CAPTION_WORDS:
        assert tokenizer(word)["input_ids"] == [vocabulary.start, vocabulary.ids[f"{word}</w>"], vocabulary.end]
    assert tokenizer.decode(tokenizer("a zebra, über 3")["input_ids"][1:-1]) == "a zebra , über 3"

    save_bert_tokenizer(tmp_path / "bert", 16)
    bert = BertTokenizer.from_pretrained(tmp_path / "bert", local_files_only=True)
    assert bert.tokenize("an orange torus") == ["an", "orange", "torus"]
    assert bert.tokenize("zebra") == ["z", "##e", "##b", "##r", "##a"]


def test_the_same_seed_builds_the_same_network_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = mini.build(3), mini.build(3)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)

"""Captions by a toy BLIP with random weights: exact sampling, independence of rows, log-probabilities, cleaning."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anything3d.backend import load_captioner
from anything3d.caption import Blip, Captioned, NucleusNoise, captioned, choose
from anything3d.errors import ConfigError, NumericsError, WeightsError
from anything3d.mini import blip as mini
from anything3d.models.weights import Place
from anything3d.seed import generators
from anything3d.settings.caption import CaptionConfig, clean


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CaptionConfig:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("blip")
    network = mini.build(0)
    with torch.no_grad():  # random weights of the usual size hardly look at the image; these do
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    mini.save(network, folder)
    return CaptionConfig(weights=str(folder), max_tokens=6)


@pytest.fixture(scope="module")
def beam(config: CaptionConfig) -> Blip:
    return load_captioner(config, Place())


@pytest.fixture(scope="module")
def nucleus(config: CaptionConfig) -> Blip:
    return load_captioner(replace(config, decoding="nucleus"), Place())


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """Black, red, green and blue noise, half transparent."""
    noise = torch.rand(4, 4, 100, 100, generator=torch.Generator().manual_seed(5))
    noise[:, :3] *= torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[:, :, None, None]
    return noise


@pytest.mark.parametrize("decoding", ["beam", "nucleus"])
def test_a_caption_does_not_depend_on_its_batch_neighbours(request: pytest.FixtureRequest, crops, decoding: str):
    captioner = request.getfixturevalue(decoding)
    together = captioner(crops, generators(0, "caption", ["a", "b", "c", "d"]))
    assert len({caption.text for caption in together}) > 1
    for index, name in enumerate("abcd"):
        alone = captioner(crops[index : index + 1], generators(0, "caption", [name]))[0]
        assert alone.text == together[index].text
        assert alone.log_probability == pytest.approx(together[index].log_probability, abs=1e-4)


def test_sampling_follows_its_generator_and_draws_from_it_once(nucleus: Blip, crops):
    one, two = (generators(0, "caption", ["a"])[0] for _ in range(2))
    first = nucleus(crops[:1], [one])
    assert first == nucleus(crops[:1], [two])
    assert first != nucleus(crops[:1], [one])
    before = torch.get_rng_state()
    nucleus(crops[:1], [one])
    assert torch.equal(before, torch.get_rng_state())
    torch.randint(2**53, (), generator=two)
    torch.randint(2**53, (), generator=two)
    assert torch.equal(one.get_state(), two.get_state())


def test_of_several_samples_the_likeliest_is_taken_whoever_else_is_in_the_batch(config: CaptionConfig, crops):
    three = load_captioner(replace(config, decoding="nucleus", samples=3), Place())
    together = three(crops, generators(0, "caption", ["a", "b", "c", "d"]))
    single = load_captioner(replace(config, decoding="nucleus"), Place())
    for index, name in enumerate("abcd"):
        (alone,) = three(crops[index : index + 1], generators(0, "caption", [name]))
        assert alone.text == together[index].text
        (generator,) = generators(0, "caption", [name])
        drawn = [single(crops[index : index + 1], [generator])[0] for _ in range(3)]
        assert alone.text == max(drawn, key=lambda caption: caption.log_probability).text


def test_a_keyword_takes_the_first_caption_that_has_it_as_a_word():
    captions = [Captioned("a red scarf", -0.5), Captioned("a Car on a road", -2.0), Captioned("a car", -0.1)]
    assert choose(captions, "car") == Captioned("a Car on a road", -2.0, "car")
    assert choose(captions, "") == Captioned("a car", -0.1)
    assert choose(captions, "mug") == Captioned("mug, a red scarf", -0.5, "mug")


def test_log_probability_is_the_mean_of_a_step_by_step_evaluation(nucleus: Blip, crops):
    ids = torch.tensor([[*nucleus.prompt_ids, 12, 30, 17, nucleus.end_id, nucleus.pad_id, nucleus.pad_id]])
    with torch.inference_mode():
        image = nucleus.vision(pixel_values=nucleus.preprocess(crops[:1, :3])).last_hidden_state
        steps = [
            nucleus.decoder(input_ids=ids[:, :n], encoder_hidden_states=image).logits[0, -1].log_softmax(-1)[ids[0, n]]
            for n in range(1, 5)
        ]
        mean = nucleus.log_probabilities(image, ids)
    assert float(mean) == pytest.approx(float(sum(steps)) / 4, abs=1e-4)


def test_beam_search_finds_captions_at_least_as_likely_as_the_greedy_one(config: CaptionConfig, beam: Blip, crops):
    greedy = load_captioner(replace(config, beams=1), Place())
    pairs = zip(beam(crops, generators(0, "x", "abcd")), greedy(crops, generators(0, "x", "abcd")), strict=True)
    gains = [found.log_probability - first.log_probability for found, first in pairs]
    assert sum(gains) >= -1e-4


def test_transparent_pixels_are_white_to_the_captioner(beam: Blip, crops):
    hidden = torch.cat([crops[:1, :3], (crops[:1, 3:] > 0.5).float()], dim=1)
    other = hidden.clone()
    other[:, :3] = torch.where(hidden[:, 3:] > 0, hidden[:, :3], 0.123)
    one, two = (beam(image, generators(0, "caption", ["a"])) for image in (hidden, other))
    assert one == two


def test_a_prompt_begins_the_sentence_and_is_cut_off(config: CaptionConfig, crops):
    captioner = load_captioner(replace(config, prompt="a photo of"), Place())
    assert len(captioner.prompt_ids) == 4
    caption = captioner(crops[:1], generators(0, "caption", ["a"]))[0]
    assert not caption.text.startswith("a photo of")


def test_gumbel_noise_samples_the_renormalised_nucleus_exactly():
    """Of p = (.5, .3, .15, .05) top_p = 0.9 keeps three, in shares of p / .95; 4 sigma of 4000 draws."""
    n = 4000
    scores = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(n, 4)
    noise = NucleusNoise(0.9, [torch.Generator().manual_seed(index) for index in range(n)])
    drawn = torch.bincount(noise(torch.zeros(n, 1, dtype=torch.long), scores).argmax(-1), minlength=4) / n
    torch.testing.assert_close(drawn, torch.tensor([0.15, 0.5, 0.0, 0.3]) / 0.95, rtol=0, atol=4 * math.sqrt(0.25 / n))


def test_a_nucleus_always_holds_the_likeliest_token():
    scores = torch.tensor([[-50.0, 0.0, -1.0, -float("inf")]])
    noise = NucleusNoise(0.1, [torch.Generator().manual_seed(0)])
    result = noise(torch.zeros(1, 1, dtype=torch.long), scores)
    assert result.isfinite().tolist() == [[False, True, False, False]]


def test_captions_are_cleaned_of_control_characters_and_capped():
    assert clean(" a\tred\x00\u202e  mug\n") == "a red mug"
    assert clean("mug " * 100) == ("mug " * 50).strip()


@pytest.mark.parametrize("text", ["", " \n\x07", ". , !"])
def test_a_caption_without_a_word_is_an_error(text: str):
    with pytest.raises(NumericsError, match="empty_caption"):
        captioned(text, -1.0)


def test_a_caption_of_unknown_probability_is_an_error():
    with pytest.raises(NumericsError, match="caption_not_finite"):
        captioned("a mug", math.nan)


class Broken(torch.nn.Module):
    """An eye that sees NaN in these rows."""

    def __init__(self, vision: torch.nn.Module, rows: slice) -> None:
        super().__init__()
        self.vision, self.rows = vision, rows

    def forward(self, **inputs):
        seen = self.vision(**inputs)
        seen.last_hidden_state[self.rows] = torch.nan
        return seen


@pytest.mark.parametrize("decoding", ["beam", "nucleus"])
def test_nan_rejects_its_object_and_of_all_objects_ends_the_run(request: pytest.FixtureRequest, crops, decoding: str):
    captioner: Blip = request.getfixturevalue(decoding)
    names = ["a", "b", "c", "d"]
    sound = captioner(crops, generators(0, "caption", names))
    one = replace(captioner, vision=Broken(captioner.vision, slice(1, 2)))(crops, generators(0, "caption", names))
    assert isinstance(one[1], NumericsError)
    assert one[1].reason == "caption_not_finite"
    assert [one[0], *one[2:]] == [sound[0], *sound[2:]]
    for count in (1, 4):
        broken = replace(captioner, vision=Broken(captioner.vision, slice(None)))
        with pytest.raises(WeightsError, match="in float32 says NaN or Inf of every object"):
            broken(crops[:count], generators(0, "caption", names[:count]))


def test_a_folder_without_its_tokenizer_is_refused(config: CaptionConfig, tmp_path: Path):
    for file in Path(config.weights).iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(WeightsError, match="tokenizer knows"):
        load_captioner(replace(config, weights=str(tmp_path)), Place())


def test_settings_out_of_range_stop_the_run(config: CaptionConfig):
    for wrong in (
        {"beams": 0},
        {"top_p": 0.0},
        {"min_tokens": 9},
        {"max_tokens": 40},
        {"samples": 3},  # of the likeliest caption there is one
        {"decoding": "nucleus", "samples": 0},
        {"keyword": "two words"},
    ):
        with pytest.raises(ConfigError):
            load_captioner(replace(config, **wrong), Place())


@pytest.mark.parametrize("prompt", ["", "a red"])
def test_captions_are_those_of_transformers_own_generation(config: CaptionConfig, crops, prompt: str):
    from transformers import BertTokenizer, BlipForConditionalGeneration

    captioner = load_captioner(replace(config, prompt=prompt), Place())
    ours = [caption.text for caption in captioner(crops, generators(0, "caption", ["a", "b", "c", "d"]))]

    model = BlipForConditionalGeneration.from_pretrained(config.weights)
    tokenizer = BertTokenizer.from_pretrained(config.weights)
    begun = tokenizer(prompt, return_tensors="pt")["input_ids"]  # start, words, end; generate drops the end
    ids = model.generate(
        pixel_values=captioner.preprocess(crops[:, :3] * crops[:, 3:] + 1 - crops[:, 3:]),
        input_ids=begun.expand(4, -1) if prompt else None,
        num_beams=config.beams,
        min_new_tokens=config.min_tokens,
        max_new_tokens=config.max_tokens + 1,
    )
    new = ids[:, begun.shape[1] - 1 :]
    assert ours == [clean(tokenizer.decode(row, skip_special_tokens=True)) for row in new]


def test_a_folder_of_a_pickle_loads_and_runs_no_code(config: CaptionConfig, crops, tmp_path: Path, capsys):
    folder = tmp_path / "blip-base"
    shutil.copytree(config.weights, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    names = ["a", "b", "c", "d"]
    expected = load_captioner(config, Place())(crops, generators(0, "caption", names))
    assert load_captioner(replace(config, weights=str(folder)), Place())(crops, generators(0, "c", names)) == expected

    class Payload:
        def __reduce__(self):
            return print, ("this ran",)

    torch.save({**tensors, "more": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="weights_broken"):
        load_captioner(replace(config, weights=str(folder)), Place())
    assert "this ran" not in capsys.readouterr().out

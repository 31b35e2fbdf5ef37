"""docs/settings.md: every setting is there with a meaning, and the page is what the code says."""

from dataclasses import fields, is_dataclass
from pathlib import Path

from jobs.settings import meanings, page
from pipeline.config import Config

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def sections(section, key: str = ""):
    yield key, type(section)
    for entry in fields(section):
        if is_dataclass(value := getattr(section, entry.name)):
            yield from sections(value, f"{key}{entry.name}.")


def test_every_setting_has_a_meaning_in_words():
    for key, section in sections(Config()):
        said = meanings(section)
        for entry in fields(section):
            if not is_dataclass(getattr(section(), entry.name)):
                text = said[entry.name]
                assert len(text) > 10, f"{key}{entry.name}: write a comment above its field or behind it"
                assert text.endswith("."), f"{key}{entry.name}: {text!r} is no sentence"


def test_comments_above_a_field_and_behind_it_are_its_meaning():
    from pipeline.config import SegmentWorkers

    said = meanings(SegmentWorkers)
    assert said["images_per_batch"].startswith("Photos that are decoded, and SAM encodes, at once;")
    assert said["prompts_per_batch"].startswith("Prompts of one photo that SAM decodes at once.")
    assert said["num_gpus"].startswith("GPUs of each actor. A fraction shares a GPU.")


def test_the_page_has_range_and_defaults_of_every_preset():
    (row,) = (line for line in page().splitlines() if line.startswith("| `lift.sigma_max` |"))
    assert row.startswith("| `lift.sigma_max` | number, above 0, at most 1000 | `20.0` | `120.0` | `120.0` |")


def test_the_page_is_not_stale():
    assert PAGE.read_text() == page(), "run python -m jobs.docs"

"""What a fingerprint depends on: what differs from the defaults of a stage's version, and nothing else."""

import json
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path

import pytest

from anything3d.models.weights import Place, digest, licence
from anything3d.settings.caption import CaptionConfig
from anything3d.settings.reconstruct import ReconstructConfig, SdsConfig
from pipeline.config import Config, changed, fingerprint
from pipeline.stages import STAGES, recipes

DEFAULTS = Path(__file__).with_name("defaults.json")  # stage -> version -> setting -> default


def flat(section, prefix: str = "") -> dict[str, object]:
    """Key -> value of all settings of a section, those of the sections inside it too."""
    settings = {}
    for entry in fields(section):
        value, key = getattr(section, entry.name), f"{prefix}{entry.name}"
        settings |= flat(value, f"{key}.") if is_dataclass(value) else {key: value}
    return settings


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_hashed_settings_and_their_defaults_are_those_of_the_version(stage):
    """A setting is new: decide whether it belongs here or, if it changes only memory or pace, in `resources`.

    Its default gives the old rows: add it to defaults.json under the same version. A default has changed: count the
    stage's `version` up, and add an entry for it.
    """
    now = json.loads(json.dumps(flat(getattr(Config(), stage.name))))
    known = json.loads(DEFAULTS.read_text())[stage.name]
    assert known.get(str(stage.version)) == now, f"{stage.name} {stage.version} in defaults.json: {json.dumps(now)}"


def of(section_name: str, section, version: int = 1) -> str:
    return fingerprint(replace(Config(), **{section_name: section}), section_name, version, {}, [])


@dataclass(frozen=True, slots=True)
class MoreCaption(CaptionConfig):
    backend: str = "blip"
    voices: tuple[float, float] = (0.0, 1.0)
    accent: str | None = None


@dataclass(frozen=True, slots=True)
class MoreSds(SdsConfig):
    extra: float = 1.0


@dataclass(frozen=True, slots=True)
class MoreReconstruct(ReconstructConfig):
    sds: MoreSds = field(default_factory=MoreSds)
    second: MoreSds | None = None


def test_a_new_setting_with_a_default_changes_no_fingerprint():
    assert of("caption", MoreCaption()) == of("caption", CaptionConfig())
    assert of("caption", MoreCaption(beams=5)) == of("caption", CaptionConfig(beams=5))
    assert of("reconstruct", MoreReconstruct()) == of("reconstruct", ReconstructConfig())
    slower = {"cfg_scale": 7.0}
    assert of("reconstruct", MoreReconstruct(sds=MoreSds(**slower))) == of(
        "reconstruct", ReconstructConfig(sds=SdsConfig(**slower))
    )


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("caption", MoreCaption(backend="colour")),
        ("caption", MoreCaption(voices=(0.5, 1.0))),
        ("caption", MoreCaption(accent="")),
        ("reconstruct", MoreReconstruct(sds=MoreSds(extra=2.0))),
        ("reconstruct", MoreReconstruct(second=MoreSds())),
        ("reconstruct", MoreReconstruct(second=MoreSds(extra=2.0))),
    ],
)
def test_every_other_value_changes_it(section, settings):
    assert of(section, settings) != of(section, type(settings)())


def test_a_section_that_is_on_by_choice_counts_with_what_differs_from_its_own_defaults():
    assert changed(MoreReconstruct(second=MoreSds(extra=2.0)), MoreReconstruct()) == {
        "second": {"class": "MoreSds", "extra": 2.0}
    }


def test_another_default_changes_it_with_its_version():
    @dataclass(frozen=True, slots=True)
    class Wider(CaptionConfig):
        beams: int = 4

    before = of("caption", CaptionConfig())
    assert of("caption", Wider(), version=2) != before
    assert of("caption", Wider(beams=3), version=2) != before


def test_the_weights_of_an_encoder_are_those_of_a_recipe_where_they_are_used_and_only_there():
    quick, linear = (
        replace(Config(), reconstruct=ReconstructConfig(sds=SdsConfig(encoder=name))) for name in ("taesd", "linear")
    )
    plain, with_taesd, with_linear = (recipes(config)["reconstruct"] for config in (Config(), quick, linear))
    assert with_taesd.weights == plain.weights | {"taesd": digest("taesd", Place())}
    assert with_linear.weights == plain.weights
    assert len({recipe.fingerprint for recipe in (plain, with_taesd, with_linear)}) == 3


def test_a_recipe_names_the_backend_its_weights_and_their_licences():
    recipe = recipes(Config())["caption"]
    assert recipe.backend == "blip"
    assert recipe.weights == {"blip": digest("blip", Place())}
    assert recipe.licences == ("Apache-2.0",)
    assert [licence(name) for name in ("blip-large", "my-own")] == ["BSD-3-Clause", "unknown (my-own)"]

"""`anything3d config` and `--version`: what they print is what runs with it."""

import tomllib

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.command import read_preset
from pipeline.config import load


def call(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("preset", ["mini", "default", "paper"])
@pytest.mark.parametrize("changed", [[], ["--changed"]])
def test_what_is_shown_is_a_file_for_config(preset, changed):
    shown = call("config", "show", "--preset", preset, "--set", "score.views=5", *changed)
    assert shown.exit_code == 0
    assert load([shown.stdout]) == load([read_preset(preset)], ["score.views=5"])
    assert {len(line) <= 120 for line in shown.stdout.splitlines() if line.startswith("#")} == {True}


def test_only_what_differs_from_mini_is_shown_as_changed():
    assert tomllib.loads(call("config", "show", "--changed").stdout) == {}
    given = call("config", "show", "--changed", "--set", "mesh.resolution=65", "--set", "seed=3").stdout
    assert tomllib.loads(given) == {"seed": 3, "mesh": {"resolution": 65}}


def test_a_setting_is_explained_with_range_presets_and_consequence():
    said = call("config", "explain", "reconstruct.sds.cfg_scale").stdout
    assert "Classifier-free guidance." in said
    assert "number, 0 to 1000" in said
    assert "2.5 in the preset mini, 25.0 in the preset default" in said
    assert "computed again: reconstruct, mesh, score." in said


def test_a_section_is_explained_with_all_that_is_in_it():
    said = call("config", "explain", "units").stdout
    assert said.startswith("How a shard is cut")
    assert [line for line in said.splitlines() if line.startswith("units.")] == [
        "units.images", "units.objects", "units.shards",
    ]  # fmt: skip
    assert "with the same rows" in said


def test_settings_that_change_no_row_say_so():
    assert "nothing is computed again" in call("config", "explain", "resources.lift.workers").stdout
    assert "nothing is computed again" in call("config", "explain", "licence").stdout


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("cfg_scale", "did you mean reconstruct.sds.cfg_scale"),
        ("lift.sigmamax", "lift.sigma_max"),
        ("xyzzy", "config show"),
    ],
)
def test_an_unknown_setting_is_one_line_with_what_may_be_meant(key, hint):
    done = call("config", "explain", key)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert hint in done.stderr


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert call("--version").stdout == f"anything3d {version('anything3d')}\n"

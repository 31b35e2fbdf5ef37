"""Single commands without Ray: wrong calls end in one line before any work, and every help says all that it should."""

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anything3d import errors
from jobs.cli import app
from jobs.command import CODES, exit_code, logs

PAGE = Path(__file__).parent.parent.parent / "docs" / "commands.md"
COMMANDS = (
    "run",
    "plan",
    "gc",
    "export",
    "lift-image",
    "world",
    "demo",
    "evaluate",
    "retry",
    "train",
    "ablate",
    "weights",
    "bench",
)


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_help_is_plain_text_that_loses_nothing():
    assert "[[variant]] with name and settings" in " ".join(call("ablate", "--help").output.split())
    assert "sa_{000..009}.tar" in call("run", "--help").output
    summary = call("--help").output
    assert all(f"  {name} " in summary for name in COMMANDS)
    for text in (summary, call("run", "--help").output, call("ablate", "--help").output):
        assert all(word in " ".join(text.split()) for word in ("Exit codes: 0 done;", "130, 143, 129 stopped by"))
    for text in (summary, call("weights", "--help").output):
        assert "..." not in text.replace("COMMAND [ARGS]...", "")


def test_commands_that_run_cells_log_on_request_and_leave_no_handler_behind(tmp_path):
    for name in ("run", "evaluate", "retry", "ablate", "demo"):
        assert all(option in call(name, "--help").output for option in ("--verbose", "--log-file"))
    before = logging.getLogger("pipeline").handlers[:]
    with logs(verbose=False, file=tmp_path / "new" / "run.log"):
        logging.getLogger("pipeline.cell").info("a commit")
    assert (tmp_path / "new" / "run.log").read_text().endswith("INFO pipeline.cell: a commit\n")
    assert logging.getLogger("pipeline").handlers == before


@pytest.mark.parametrize(("out", "scenes"), [("world.tar", 200_000), ("world.zip", 1)])
def test_a_world_out_of_range_is_one_line(tmp_path, out, scenes):
    done = call("world", tmp_path / out, "--scenes", scenes, "--seed", 0)
    assert done.exit_code == 2
    assert done.stderr.startswith("anything3d: world_range: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_ablation_makes_the_folder_of_its_numbers_before_the_study(tmp_path):
    """The shard is missing, so that there is no study."""
    (tmp_path / "variants.toml").write_text('[[variant]]\nname = "full"\nsettings = []\n')
    arguments = ("ablate", tmp_path / "none.tar", "--out", tmp_path / "corpus", "--truth", tmp_path / "x.truth")
    done = call(*arguments, "--variants", tmp_path / "variants.toml", "--json", tmp_path / "new" / "x.json")
    assert done.exit_code == 2
    assert "no_shard" in done.stderr
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize("relative", ["shard", "out", "truth"])
def test_inside_a_ray_job_an_ablation_refuses_relative_paths(tmp_path, monkeypatch, relative):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({}))
    (tmp_path / "world.tar").touch()
    given = {"shard": tmp_path / "world.tar", "out": tmp_path / "corpus", "truth": tmp_path / "world.truth"}
    given[relative] = given[relative].name
    done = call("ablate", given["shard"], "--out", given["out"], "--truth", given["truth"])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"anything3d: relative_path: '{given[relative]}' inside a Ray job")


def test_a_fault_of_the_machine_is_one_line_and_a_code_of_its_own(tmp_path):
    """Files of what is to be a folder cannot be written, whoever tries."""
    (tmp_path / "file").touch()
    done = call("world", tmp_path / "file" / "world.tar", "--scenes", 1, "--seed", 0, "--size", 64)
    assert done.exit_code == 4
    assert done.stderr.startswith("anything3d: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.Bug, 1),
        (errors.InputError, 2),
        (errors.ConfigError, 2),
        (errors.SourceError, 2),
        (errors.StorageError, 2),
        (errors.WeightsError, 2),
        (errors.TooFew, 3),
        (errors.MachineError, 4),
        (errors.DeviceLost, 4),
        (errors.LimitReached, 5),
        (errors.GateRefused, 6),
        (errors.NoObject, 7),
    ],
)
def test_every_kind_of_end_has_its_exit_code_in_the_help_and_on_its_page(kind, code):
    assert exit_code(kind("some_reason", "a message")) == code
    assert f"; {code} " in CODES
    assert f"\n| {code} | " in PAGE.read_text()


@pytest.mark.parametrize("option", ["--packaged-share", "--packaged-rate"])
def test_what_is_said_of_packaged_weights_needs_a_training_that_begins_with_them(option):
    result = call("train", "clip", option, 0.5)
    assert result.exit_code == 2
    assert option in result.output
    assert "it needs --from-packaged" in result.output

"""`nightly --submit` without a cluster: what it refuses, and what it sends."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.nightly import copy_packages


@pytest.fixture
def night(tmp_path):
    path = tmp_path / "night.toml"
    path.write_text(f'out = "{tmp_path}/corpus"\nshards = ["{tmp_path}/*.tar"]\n')
    return str(path)


@pytest.mark.parametrize(
    "more", [["--json", "told.json"], ["--address", "head:6379"], ["--verbose"], ["--log-file", "night.log"]]
)
def test_options_that_the_job_does_not_get_are_refused(night, more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["nightly", "--config", night, "--submit", "http://127.0.0.1:1", *more])
    assert done.exit_code == 2
    assert done.stderr.startswith("anything3d: submit_options: ")
    assert [path.name for path in tmp_path.iterdir()] == ["night.toml"]


def test_an_address_of_no_dashboard_is_refused_at_once(night):
    done = CliRunner().invoke(app, ["nightly", "--config", night, "--submit", "head:8265"])
    assert done.exit_code == 2
    assert done.stderr.startswith("anything3d: ray_address: --submit is 'head:8265'. Give http://")


def test_the_packages_that_are_sent_are_whole_and_alone(tmp_path):
    copy_packages(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"schemas", "anything3d", "pipeline", "jobs"}
    line = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import jobs.cli as c; print(c.__file__)",
    ]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    assert said == str(tmp_path / "jobs" / "cli.py")
    assert (tmp_path / "jobs" / "presets" / "mini.toml").exists()

"""Every command's help ends with examples, and the command understands each of them."""

import os
import shlex
from itertools import takewhile

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from jobs.cli import app
from jobs.examples import EXAMPLES

ROOT = get_command(app)
LINES = [(command, line) for command, lines in EXAMPLES.items() for line in lines]


def commands(group, before=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name))


def test_help_ends_with_the_examples_each_on_its_own_line():
    for command, lines in EXAMPLES.items():
        shown = CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=200).stdout
        written = [line.strip() for line in shown.partition("Examples:")[2].splitlines()]
        assert [line for line in written if line.startswith("anything3d ")] == list(lines), command


def test_every_command_has_examples():
    assert set(commands(ROOT)) == set(EXAMPLES)


@pytest.mark.parametrize(("command", "line"), LINES)
def test_an_example_is_understood(command, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "night.toml").write_text("")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "world.truth").mkdir()
    words = list(takewhile(lambda word: word not in ("|", ">"), shlex.split(os.path.expandvars(line))))
    assert words[0] == "anything3d"
    group, rest = ROOT, words[1:]
    for name in command.split():
        assert rest[0] == name
        group, rest = group.commands[name], rest[1:]
    group.make_context(command, rest)  # an unknown option, or a wrong number of words, raises here

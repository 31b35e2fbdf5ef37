"""The commands that the demo names at its end are commands."""

import shlex
from pathlib import Path

import typer

from jobs.cli import app
from jobs.demo import next_steps


def test_the_next_commands_exist_and_take_these_options():
    first, *commands = next_steps(Path("demo/corpus"), 1)
    assert "demo/corpus/index.html" in first
    assert len(commands) == 3
    for line in commands:
        program, name, *rest = shlex.split(line.partition("    # ")[0])
        assert Path(program).name == "anything3d"
        command = typer.main.get_command(app).commands[name]
        if name == "weights":
            command = command.commands[rest.pop(0)]
        command.make_context(name, rest)  # raises for an unknown option, or one without its value

"""`anything3d bench`: what `engine` shows of figures, a small real one on an S3, and what `plan` refuses."""

import json
from dataclasses import fields, replace

import pytest
from typer.testing import CliRunner

from jobs.bench import lines, read_sizes
from jobs.cli import app
from pipeline.bench import Bench, Call, Growth, Size
from tests import s3

MOST_REQUESTS = 30  # for one cell: run, found to be finished, and published again


def call(*arguments):
    return CliRunner().invoke(app, ["bench", "engine", *map(str, arguments)])


def size(units, seconds):
    of_call = Call(**{field.name: 1.0 for field in fields(Call)})
    made = {field.name: 1 for field in fields(Size)} | {"units": units, "cells": 7 * units, "cell_s": seconds}
    made |= {"run": replace(of_call, driver_before_mb=100.0, driver_peak_mb=125.0), "finished": of_call}
    return Size(**made | {"publish": of_call})


def test_the_table_has_a_column_for_each_size_and_says_how_figures_grow():
    growth = {"cells_s": Growth(1.0, 0.07), "publish_s": Growth(None, None), "driver_added_mb": Growth(0.5, 0.02)}
    head, rule, *rows = lines(Bench(2, {}, [size(100, 0.01), size(1000, 0.01)], growth))
    assert head == "| what | 100 units | 1,000 units | exponent | one more unit |"
    assert {row.count("|") for row in (head, rule, *rows)} == {6}
    assert "| cells | 700 | 7,000 |  |  |" in rows
    assert "| - one cell after that, ms | 10.00 | 10.00 |  |  |" in rows
    assert "| - all cells, at that pace, s | 7.0 | 70.0 | 1.00 | 70.00 ms |" in rows
    assert "| - what the run adds to it, MB | 25 | 25 | 0.50 | 20.00 kB |" in rows
    assert "| look-up and publishing of all cells, s | 1.0 | 1.0 | - | - |" in rows


def test_sizes_are_different_numbers_above_0():
    assert read_sizes("100, 1000,10000") == [100, 1000, 10000]
    for wrong in ("", "0", "ten", "-5", "5,5", "1e3"):
        done = call("--units", wrong)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"anything3d: setting: --units {wrong!r}: give different numbers above 0")


def test_the_steps_of_another_backend_are_not_counted_as_those_of_sds():
    done = CliRunner().invoke(app, ["bench", "plan", "--set", "reconstruct.backend=shap-e"])
    assert done.exit_code == 2
    assert done.stderr.startswith('anything3d: setting: reconstruct.backend is "shap-e", and of reconstruct only')


@pytest.mark.slow
def test_a_small_corpus_on_s3_is_run_resumed_and_published(tmp_path):
    with s3.serve() as server:
        done = call("--units", 12, "--objects", 2, "--corpus", f"s3://{s3.BUCKET}/bench", "--out", tmp_path / "b.json")
        assert done.exit_code == 0, done.output
    (measured,) = json.loads((tmp_path / "b.json").read_text())["sizes"]
    run, finished, publish = (measured[name] for name in ("run", "finished", "publish"))
    cells = 1 + 1 + 12 * 6
    assert (measured["units"], measured["objects"], measured["cells"]) == (12, 24, cells)
    assert (run["cells_run"], finished["cells_run"], publish["cells_run"]) == (cells, 0, 0)
    assert all(call["seconds"] > 0 for call in (run, finished, publish))
    assert run["all_cpu_s"] > run["driver_cpu_s"] > 0
    assert run["all_mb"] > run["driver_peak_mb"] > run["driver_before_mb"] > 0
    assert measured["files_per_cell"] >= 2
    assert f"| cells | {cells} |" in done.output
    print(f"{len(server.asked)} requests for {cells} cells, in all three calls together")
    assert len(server.asked) <= MOST_REQUESTS * cells

"""How runs end that do not end by themselves, and what a run's own Ray shows and takes: real processes, real signals.

A worker that hangs is a stopped one: it answers nobody, as one deep in a driver call does.
"""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.jobs.conftest import END_S, LONG_S, ROOT, command, environment, heed_ctrl_c, stopped, wait_for, workers

pytestmark = pytest.mark.slow


def start(shard: Path, folder: Path, settings: Sequence[str] = (), **more: str) -> subprocess.Popen:
    """The command in `folder`, as somebody who knows no Ray gives it; its output goes to folder/log."""
    folder.mkdir()
    heed_ctrl_c()
    known = {key: value for key, value in environment().items() if key != "RAY_ADDRESS"}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            command(shard, folder / "corpus", settings),
            cwd=folder,
            env={**known, "PYTHONPATH": str(ROOT), **more},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log(folder: Path) -> str:
    return (folder / "log").read_text()


def processes(run: subprocess.Popen) -> list[psutil.Process]:
    """Those that it has started; none if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(run.pid).children(recursive=True)
    return []


def named(found: list[psutil.Process], name: str) -> list[psutil.Process]:
    """Those with this name that have not ended."""
    same = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            if process.name() == name:
                same.append(process)
    return same


def hang(run: subprocess.Popen) -> list[psutil.Process]:
    """Stop one actor; all processes of the run."""
    wait_for(lambda: run.poll() is not None or any(map(stopped, workers(processes(run)))), "a worker")
    assert run.poll() is None
    return processes(run)


def ended(run: subprocess.Popen, known: list[psutil.Process]) -> int:
    """The exit code, after END_S at most, with no process left."""
    code = run.wait(timeout=END_S)
    _, left = psutil.wait_procs(known, timeout=END_S)
    assert left == []
    return code


def addresses(found: list[psutil.Process]) -> set[str]:
    """Where the processes listen."""
    listening = set()
    for process in found:
        with contextlib.suppress(psutil.Error):  # it has just ended
            sockets = process.net_connections(kind="tcp")
            listening |= {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
    return listening


def test_two_runs_at_once_are_apart_and_ctrl_c_ends_one_of_them(shard, tmp_path):
    """Both in folders whose files have names of libraries, on a shard without truth, which may be photographs.

    The other one ends by itself; it finds no object of the size that it wants.
    """
    photos = shutil.copy(shard, tmp_path / "photos.tar")
    runs = []
    for name in ("one", "two"):
        runs.append(start(photos, tmp_path / name, ["segment.min_area_px=1000000"]))
        for stray in ("six.py", "random.py", "typer.py"):
            (tmp_path / name / stray).write_text("raise SystemExit('a stray file was imported')")
    one, two = runs
    known = hang(one)
    wait_for(lambda: two.poll() is not None or bool(workers(processes(two))), "a worker of the other run")
    assert {process.pid for process in known}.isdisjoint(process.pid for process in processes(two))
    heard = addresses([*known, *processes(two), psutil.Process(one.pid)])
    assert heard
    assert heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    one.send_signal(signal.SIGINT)
    one.send_signal(signal.SIGINT)  # impatience changes nothing
    assert ended(one, known) == 130
    last = log(tmp_path / "one").splitlines()[-1]
    assert last == "anything3d: stopped by SIGINT; the same command continues from what is done"
    others = processes(two)
    assert two.wait(timeout=LONG_S) == 7, log(tmp_path / "two")[-4000:]
    assert psutil.wait_procs(others, timeout=END_S)[1] == []
    said = log(tmp_path / "two").splitlines()
    assert said[-1].startswith("anything3d: no_objects: the run made no object: segment ")
    meaningless = [line for line in said if "On photographs the results mean nothing; use --preset default" in line]
    assert len(meaningless) == 2  # at the start, at the end
    assert said[0] == meaningless[0]
    assert "mean nothing" in (tmp_path / "two" / "corpus" / "index.html").read_text()


def test_sigterm_ends_a_run_whose_temporary_folder_has_a_long_name(shard, tmp_path):
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    run = start(shard, tmp_path / "run", TMPDIR=str(deep))
    known = hang(run)
    run.terminate()
    assert ended(run, known) == 143
    assert log(tmp_path / "run").splitlines()[-1].startswith("anything3d: stopped by SIGTERM; the same command")


def test_a_run_whose_ray_dies_goes_on_with_a_new_one_and_can_be_ended_meanwhile(shard, tmp_path):
    run = start(shard, tmp_path / "run")
    known = hang(run)
    (raylet,) = named(known, "raylet")
    raylet.kill()
    for process in known:  # a worker that nobody has stopped sees that its raylet has gone, and ends
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()  # whatever its state is said to be: a page fault hides that a process is stopped
    wait_for(lambda: "the run goes on in 10 s" in log(tmp_path / "run"), "what the run says of it")
    (line,) = (line for line in log(tmp_path / "run").splitlines() if "the run goes on" in line)
    assert line.startswith("ray: Ray's raylet")
    run.terminate()
    assert ended(run, known) == 143


@pytest.mark.parametrize(
    ("setting", "code", "says"),
    [
        ({"RAY_GCS_SERVER_VALGRIND": "1", "PATH": "/nowhere"}, 4, "ray_start: Ray did not start in 3 tries: "),
        ({"RAY_ADDRESS": "http://127.0.0.1:8265"}, 2, "ray_address: http://127.0.0.1:8265 is where `ray job submit`"),
        ({"RAY_ADDRESS": "127.0.0.1:1"}, 4, "ray_unreachable: no Ray cluster answers at"),
    ],
)
def test_a_ray_that_is_not_there_is_one_line(shard, tmp_path, setting, code, says):
    """The first: a Ray whose control store is to be started by a program that this machine does not have."""
    run = start(shard, tmp_path / "run", **setting)
    assert run.wait(timeout=LONG_S) == code, log(tmp_path / "run")
    *before, last = log(tmp_path / "run").splitlines()
    assert last.startswith(f"anything3d: {says}")
    assert not any(line.startswith(("anything3d: ", "Traceback")) for line in before)

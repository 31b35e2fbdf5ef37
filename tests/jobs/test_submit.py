"""A cluster for real, on loopback with its own ports and folder: a job from a full checkout, and a run that joins."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import nothing
from pipeline.config import load
from pipeline.metrics import COUNTERS, GAUGES
from pipeline.stages import BY_NAME
from tests.jobs.conftest import OBJECTS, QUICK, ROOT, Corpus, command, wait_for, workers

pytestmark = pytest.mark.slow
PACKAGES = {"anything3d", "jobs", "pipeline", "schemas"}
RAY = [sys.executable, "-P", "-m", "ray.scripts.scripts"]


def free_ports(count: int) -> list[int]:
    """Ports below 10002, where Ray's own workers begin."""
    found: list[int] = []
    for port in range(6500, 9900):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def processes_of(folder: str) -> list[int]:
    """Pids of everything that was started with this cluster's temporary folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if folder in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has just ended
    return found


@dataclass(frozen=True)
class Head:
    """A running head and how its clients reach it."""

    folder: str  # of its logs and sockets
    dashboard: str
    address: str  # of the cluster
    metrics: str  # what Prometheus reads
    environment: dict[str, str]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head that takes jobs. One whose agent does not come up on a busy machine is stopped, and another is started."""
    token = tmp_path_factory.mktemp("head") / "token"
    token.write_text("0123456789abcdef" * 4)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # `python` is what a cluster has installed
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "4000",
    }
    answers = []
    for _ in range(3):
        folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets need a short path
        try:
            running = started(folder, environment)
            deadline = time.monotonic() + 150
            while (answer := trial(running)).returncode != 0 and time.monotonic() < deadline:
                answers.append(answer.stdout + answer.stderr)
            if answer.returncode == 0:
                yield running
                return
        finally:
            stop(folder)
    pytest.fail(f"three heads took no job; the last answer:\n{answers[-1]}")


def started(folder: str, environment: dict[str, str]) -> Head:
    """A head with ports and a temporary folder of its own."""
    gcs, dashboard, client, agent, metrics = free_ports(5)
    subprocess.run(
        [*RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
         "--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}", "--num-cpus=2", "--num-gpus=0",
         f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
         "--object-store-memory=200000000", f"--temp-dir={folder}",
         "--disable-usage-stats"],
        env=environment, check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    return Head(folder, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", f"http://127.0.0.1:{metrics}", environment)


def stop(folder: str) -> None:
    """Kill a head by its own pids."""
    deadline = time.monotonic() + 60
    while pids := processes_of(folder):
        assert time.monotonic() < deadline, pids
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def trial(head: Head) -> subprocess.CompletedProcess:
    """A job that does nothing. The head answers before its agent takes jobs."""
    job = [*RAY, "job", "submit", f"--address={head.dashboard}", "--", "true"]
    try:
        return subprocess.run(job, env=head.environment, capture_output=True, text=True, timeout=100)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(job, 124, str(error.stdout), str(error.stderr))


@pytest.fixture
def checkout(tmp_path):
    """A checkout in which somebody has followed README: more than Ray takes, and all that may lie about."""
    folder = tmp_path / "checkout"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name)
    for name in (".gitignore", ".rayignore", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in (
        "demo",
        "known/assets",
        "weights/sam-vit-h",
        "photo",
        "training",
        "jobs.old",
        "two words",
        ".venv/lib",
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "file.bin").write_bytes(b"x")
    with (folder / "world.tar").open("wb") as large:
        large.truncate(600 << 20)
    (folder / "six.py").write_text("raise SystemExit('a stray file was imported')")
    return folder


def submit(head: Head, checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*RAY, "job", "submit", f"--address={head.dashboard}", "--working-dir", ".", "--",
         sys.executable, "-m", "jobs.run", *arguments],
        cwd=checkout, env=head.environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip


def test_a_job_from_a_full_checkout_takes_the_package_and_makes_the_corpus_of_a_local_run(
    head, checkout, shard, corpus, tmp_path
):
    refused = submit(head, checkout, str(shard), "--out", "relative/corpus")
    assert refused.returncode != 0
    assert "relative_path" in refused.stdout + refused.stderr

    out = tmp_path / "corpus"
    flags = [part for setting in QUICK for part in ("--set", setting)]
    done = submit(head, checkout, str(shard), "--out", str(out), "--max-objects", str(OBJECTS), *flags)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "succeeded" in done.stdout
    assert Corpus(out, done.stdout).snapshot == corpus.snapshot
    uploads = Path(head.folder).glob("session_latest/runtime_resources/working_dir_files/_ray_pkg_*/*")
    assert {path.name for path in uploads} == PACKAGES


def test_a_night_is_submitted_once_a_day(head, shard, corpus, tmp_path):
    """The night has nothing to do, as the corpus is finished."""
    out = shutil.copytree(corpus.path, tmp_path / "corpus")
    lines = [f'out = "{out}"', f'shards = ["{shard}"]', f"max_objects = {OBJECTS}", f"settings = {json.dumps(QUICK)}"]
    (tmp_path / "night.toml").write_text("\n".join(lines))
    line = [sys.executable, "-m", "jobs.cli", "nightly", "--config", str(tmp_path / "night.toml"), "--submit"]

    def night(address: str, code: int = 0) -> str:
        done = subprocess.run(
            [*line, address], cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = night(head.dashboard)
    job = said.split()[1]
    assert said.startswith(f"job {job} was submitted")
    log = [*RAY, "job", "logs", f"--address={head.dashboard}", "--follow", job]
    told = subprocess.run(log, env=head.environment, capture_output=True, text=True, timeout=200)
    assert ", 0 cells run," in told.stdout, told.stdout + told.stderr
    assert f"job {job} is succeeded already" in night(head.dashboard)
    assert "ray_unreachable" in night("http://127.0.0.1:1", code=4)


RUN = """
import sys
from pipeline import nothing
from pipeline.config import load
from pipeline.config import load
from pipeline.plan import Selection
from pipeline.run import run

*shards, out = sys.argv[1:]
config = load([], ["units.images=1", "price.cpu_hour=7200", "price.currency='EUR'"])
run(config, shards, out, Selection(), load=nothing.load)
print("done", flush=True)
sys.stdin.read()  # what is no counter goes with the process
"""


def metrics(page: str, corpus: str) -> dict[tuple[str, ...], float]:
    """The samples of a run: (name, labels that are not Ray's) -> value."""
    found = {}
    for sample in (sample for family in text_string_to_metric_families(page) for sample in family.samples):
        if sample.labels.get("corpus") == corpus:
            labels = [value for name, value in sorted(sample.labels.items()) if name[0].islower()]
            own = [value for value in labels if value != corpus and "telemetry" not in value and value]
            found[sample.name.removeprefix("ray_anything3d_"), *own] = sample.value
    return found


def test_prometheus_reads_from_the_cluster_how_far_a_run_is(head, tmp_path):
    """Three photos in two shards, each with two objects, and one without its JSON; the stages do nothing."""
    shards, out = nothing.write_shards(str(tmp_path / "shards"), 3, 2), str(tmp_path / "corpus")
    with tarfile.open(shards[1], "a") as tar:
        tar.addfile(tarfile.TarInfo("./sa_9.jpg"))
    environment = {**head.environment, "RAY_ADDRESS": head.address, "PYTHONPATH": str(ROOT)}
    given = [sys.executable, "-c", RUN, *shards, out]
    with subprocess.Popen(given, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        while run.stdout.readline().strip() != b"done":
            assert run.poll() is None
        seen = {}

        def told() -> bool:
            with urlopen(f"{head.metrics}/metrics", timeout=60) as page:
                seen.update(metrics(page.read().decode(), out))
            return ("shards_finished",) in seen and seen["shards_finished",] == 2

        wait_for(told, "the metrics")
        run.stdin.close()
    stages = [*BY_NAME]
    items = [2, 3, *[6] * (len(stages) - 2)]
    for name in ("items_done_total", "items_expected"):
        assert [seen[name, stage] for stage in stages] == items, name
    assert [seen["items_left", stage] for stage in stages] == [0] * len(stages)
    assert {key: value for key, value in seen.items() if key[0] == "rejects_total"} == {
        ("rejects_total", "failed", "missing_json", "index"): 1
    }
    assert (seen["shards_expected",], seen["seconds_left",]) == (2, 0)
    at_work, ready, wanted = (seen[f"actors_{what}", "shared"] for what in ("at_work", "ready", "wanted"))
    assert at_work == 0 <= ready <= wanted <= 2
    for stage, count in zip(stages, items, strict=True):
        seconds = seen["actor_seconds_total", stage]
        assert seen["seconds_per_item", stage] == pytest.approx(seconds / count, abs=1e-3)
        assert seen["cost_total", "EUR", stage] == pytest.approx(2 * seconds * getattr(load([]).resources, stage).cpus)
    assert {name.removeprefix("anything3d_") for name in [*COUNTERS, *GAUGES]} - {key[0] for key in seen} == {
        "gpu_seconds_total"  # there is no GPU
    }


def test_ctrl_c_ends_a_run_that_joined_a_cluster_and_leaves_the_cluster(head, shard, tmp_path):
    (raylet,) = (process for process in map(psutil.Process, processes_of(head.folder)) if process.name() == "raylet")

    before = workers(raylet.children())  # of the job before, which Ray may not have ended yet
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            [*command(shard, tmp_path / "corpus"), "--address", head.address],
            cwd=tmp_path, env={**head.environment, "PYTHONPATH": str(ROOT)},
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def new() -> list[psutil.Process]:
        return [process for process in workers(raylet.children()) if process not in before]

    wait_for(lambda: run.poll() is not None or bool(new()), "a worker")
    known = new()
    known[0].suspend()
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=10) == 130, (tmp_path / "log").read_text()
    assert "stopped by SIGINT" in (tmp_path / "log").read_text()
    assert psutil.wait_procs(known, timeout=20)[1] == []
    assert raylet.is_running()

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
from functools import partial
from pathlib import Path
from random import Random
from urllib.request import urlopen

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import nothing
from pipeline.config import load
from pipeline.metrics import COUNTERS, GAUGES
from pipeline.stages import BY_NAME
from tests.jobs.conftest import (
    END_S,
    LONG_S,
    OBJECTS,
    QUICK,
    ROOT,
    Corpus,
    command,
    heed_ctrl_c,
    stopped,
    wait_for,
    workers,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]  # one head, whose ports nobody else chooses
PACKAGES = {"anything3d", "jobs", "pipeline", "schemas"}
TRIES = 5  # to start a head: Ray gives up after 30 s, which no setting changes
RAY = [sys.executable, "-P", "-m", "ray.scripts.scripts"]


def free_ports(count: int) -> list[int]:
    """Ports below 10002, where Ray's own workers begin. Another run of these tests chooses others."""
    found: list[int] = []
    for port in Random().sample(range(6500, 9900), 3400):
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
    }
    answers = []
    for _ in range(TRIES):
        folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets need a short path
        try:
            running, deadline = started(folder, environment), time.monotonic() + 300
            while (answer := trial(running)).returncode != 0 and time.monotonic() < deadline:
                answers.append(answer.stdout + answer.stderr)
            if answer.returncode == 0:
                yield running
                return
        except subprocess.SubprocessError as error:
            answers.append(f"{error}: {error.stderr}")
        finally:
            stop(folder)
    pytest.fail(f"{TRIES} heads took no job; the last answer:\n{answers[-1]}")


def started(folder: str, environment: dict[str, str]) -> Head:
    """A head with ports and a temporary folder of its own.

    The raylet dies if an agent does not choose a port within 15 s. So all ports are chosen here, and the one that Ray
    does not tell it is written where it looks.
    """
    gcs, dashboard, client, agent, agent_grpc, environments, metrics = free_ports(7)
    start = subprocess.Popen(
        [*RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
         "--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}", "--num-cpus=2", "--num-gpus=0",
         f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
         f"--runtime-env-agent-port={environments}", f"--metrics-export-port={metrics}",
         "--object-store-memory=200000000", f"--temp-dir={folder}",
         "--disable-usage-stats"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    bound = partial(Path(folder).glob, "session_latest/gcs_server_port_*")  # a file, whose name ends with the node's
    wait_for(lambda: start.poll() is not None or any(bound()), "the head's control store")
    for path in bound():
        path.with_name(path.name.replace("gcs_server", "dashboard_agent_listen")).write_text(f"{agent}")
    said, _ = start.communicate(timeout=300)
    if start.returncode != 0:
        raise subprocess.CalledProcessError(start.returncode, "ray start", stderr=said)
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
        return subprocess.run(job, env=head.environment, capture_output=True, text=True, timeout=200)
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
        cwd=checkout, env=head.environment, capture_output=True, text=True, timeout=LONG_S,
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
            [*line, address], cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=LONG_S
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    said, job = night(head.dashboard), ""
    assert said.startswith(f"job {said.split()[1]} was submitted")
    while job != said.split()[1]:  # twice if a day ends meanwhile: the next day has a job of its own
        job = said.split()[1]
        log = [*RAY, "job", "logs", f"--address={head.dashboard}", "--follow", job]
        told = subprocess.run(log, env=head.environment, capture_output=True, text=True, timeout=LONG_S)
        assert ", 0 cells run," in told.stdout, told.stdout + told.stderr
        said = night(head.dashboard)
    assert said.startswith(f"job {job} is succeeded already")
    assert "ray_unreachable" in night("http://127.0.0.1:1", code=4)


RUN = """
import sys
from pipeline import nothing
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
        stages = [*BY_NAME]
        items = dict(zip(stages, [2, 3, *[6] * (len(stages) - 2)], strict=True))
        end = {  # a page may be of a moment when not all of them have arrived
            **{(name, stage): n for name in ("items_done_total", "items_expected") for stage, n in items.items()},
            **{("items_left", stage): 0 for stage in stages},
            ("actors_at_work", "shared"): 0,
            ("rejects_total", "failed", "missing_json", "index"): 1,
            ("seconds_left",): 0,
            ("shards_expected",): 2,
            ("shards_finished",): 2,
        }
        seen = {}

        def wrong() -> list[str]:
            """What the pages so far do not say as it is at the end."""
            with urlopen(f"{head.metrics}/metrics", timeout=60) as page:
                seen.update(metrics(page.read().decode(), out))
            of_items = {}
            for stage, count in items.items():
                seconds = seen.get(("actor_seconds_total", stage), float("nan"))
                of_items["seconds_per_item", stage] = pytest.approx(seconds / count, abs=1e-3)
                cost = pytest.approx(2 * seconds * getattr(load([]).resources, stage).cpus)
                of_items["cost_total", "EUR", stage] = cost
            return [f"{key}: {seen.get(key)}" for key, value in {**end, **of_items}.items() if seen.get(key) != value]

        wait_for(lambda: not wrong(), "the metrics")
        run.stdin.close()
    assert [key for key in seen if key[0] == "rejects_total"] == [("rejects_total", "failed", "missing_json", "index")]
    ready, wanted = (seen[f"actors_{what}", "shared"] for what in ("ready", "wanted"))
    assert 0 <= ready <= wanted <= 2
    assert {name.removeprefix("anything3d_") for name in [*COUNTERS, *GAUGES]} - {key[0] for key in seen} == {
        "gpu_seconds_total"  # there is no GPU
    }


def test_ctrl_c_ends_a_run_that_joined_a_cluster_and_leaves_the_cluster(head, shard, tmp_path):
    pids = processes_of(head.folder)
    (raylet,) = (one for one in psutil.process_iter(["name"]) if one.pid in pids and one.info["name"] == "raylet")
    before = workers(raylet.children())  # of the job before, which Ray may not have ended yet
    heed_ctrl_c()
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            [*command(shard, tmp_path / "corpus"), "--address", head.address],
            cwd=tmp_path, env={**head.environment, "PYTHONPATH": str(ROOT)},
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def new() -> list[psutil.Process]:
        return [process for process in workers(raylet.children()) if process not in before]

    wait_for(lambda: run.poll() is not None or any(map(stopped, new())), "a worker")
    assert run.poll() is None
    known = new()
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=END_S) == 130, (tmp_path / "log").read_text()
    assert "stopped by SIGINT" in (tmp_path / "log").read_text()
    assert psutil.wait_procs(known, timeout=END_S)[1] == []
    assert raylet.is_running()

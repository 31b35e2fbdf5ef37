"""`ray job submit` for real: a head on loopback with its own ports and folder, one job, its corpus, its end."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.jobs.conftest import OBJECTS, QUICK, ROOT, Corpus

pytestmark = pytest.mark.slow
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


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


@pytest.fixture
def head(tmp_path):
    """A running head: the dashboard's address and the environment for its clients; stopped by its own pids."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets need a short path
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    gcs, dashboard, client = free_ports(3)
    subprocess.run(
        [*RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
         "--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}", "--num-cpus=2", "--num-gpus=0",
         "--object-store-memory=200000000", f"--temp-dir={folder}", "--disable-usage-stats"],
        env=environment, check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    yield f"http://127.0.0.1:{dashboard}", environment
    deadline = time.monotonic() + 60
    while pids := processes_of(folder):
        assert time.monotonic() < deadline, pids
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def submit(head, *arguments: str) -> subprocess.CompletedProcess:
    address, environment = head
    return subprocess.run(
        [*RAY, "job", "submit", f"--address={address}", "--working-dir", str(ROOT), "--",
         sys.executable, "-m", "jobs.run", *arguments],
        env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip


def test_a_submitted_job_makes_the_corpus_of_a_local_run(head, shard, corpus, tmp_path):
    refused = submit(head, str(shard), "--out", "relative/corpus")
    assert refused.returncode != 0
    assert "relative_path" in refused.stdout + refused.stderr

    out = tmp_path / "corpus"
    flags = [part for setting in QUICK for part in ("--set", setting)]
    done = submit(head, str(shard), "--out", str(out), "--max-objects", str(OBJECTS), *flags)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "succeeded" in done.stdout
    assert Corpus(out, done.stdout).snapshot == corpus.snapshot

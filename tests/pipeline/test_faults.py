"""What may happen to a process and to its storage while a cell is made: real signals, real disks, a real server.

docs/faults.md says which test stands for which fault.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest

from anything3d.errors import MachineError, OutOfMemory
from pipeline import batch, cell
from pipeline.store import Store
from schemas.records import RejectRecord
from tests import s3, soak
from tests.pipeline.test_cell import LENGTHS, LengthRecord, after_words, exit_code, exit_of, leave_deaths, lengths, run

ROOT = Path(__file__).parent.parent.parent
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]  # in which a test may mount a disk of its own


def rows(store: Store) -> list[tuple[str, int]]:
    """The rows of the cell, whose parts have to be whole."""
    commit = cell.find(LENGTHS, after_words(store), store)
    assert commit is not None
    assert commit.rejects is None
    return [(row.word, row.length) for row in store.read_part(commit.rows, LengthRecord)]


UNDISTURBED = [(word, 3) for word in ("ant", "bee", "cow", "dog", "elk", "fox")]


def make(root: str, what: str = "", when: int = 0) -> None:
    soak.at_writes(Path(root), what, when)
    run(Store(root))


def readable(root: str) -> None:
    """A reader sees the whole cell, or none."""
    store = Store(root)
    if cell.find(LENGTHS, after_words(store), store):
        assert rows(store) == UNDISTURBED


def finished(root: str) -> None:
    run(Store(root))
    assert rows(Store(root)) == UNDISTURBED


def kill_at_every_write(folder: Path) -> None:
    """In a process that has used no storage, since it forks."""
    for write in range(1, 200):
        codes = []
        for call in ((make, "kill", write), (readable,), (finished,)):
            process = soak.CONTEXT.Process(target=call[0], args=(str(folder / str(write)), *call[1:]))
            process.start()
            process.join()
            codes.append(process.exitcode)
        if codes == [0, 0, 0]:  # there was no such write any more
            (folder / "writes").write_text(str(write - 1))
            return
        assert codes == [-signal.SIGKILL, 0, 0], write
    raise AssertionError("a cell of six words has more than 200 writes")


def test_a_kill_before_any_write_leaves_no_half_cell_and_the_next_call_finishes_it(tmp_path):
    process = get_context("spawn").Process(target=kill_at_every_write, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert int((tmp_path / "writes").read_text()) > 20


def stop_before_commit(root: str) -> None:
    """Stop this process just before its commit gets its name."""

    def hook(event: str, arguments: tuple) -> None:
        if event == "os.link" and str(arguments[1]).endswith(f"{cell.folder_of(LENGTHS, unit)}/commit.json"):
            os.kill(os.getpid(), signal.SIGSTOP)

    store = Store(root)
    unit = after_words(store)
    sys.addaudithook(hook)
    commit, made = cell.run(LENGTHS, unit, store, lambda: lengths({}))
    assert not made
    Path(root, "adopted").write_text(commit.attempt)


def test_a_paused_loser_adopts_the_commit_of_the_winner(tmp_path):
    slow = get_context("spawn").Process(target=stop_before_commit, args=(str(tmp_path),))
    slow.start()
    os.waitid(os.P_PID, slow.pid, os.WSTOPPED | os.WNOWAIT)
    store = Store(str(tmp_path))
    commit, made = run(store)
    assert made
    os.kill(slow.pid, signal.SIGCONT)
    slow.join()
    assert (slow.exitcode, (tmp_path / "adopted").read_text()) == (0, commit.attempt)
    assert rows(store) == UNDISTURBED
    left = set(store.paths(commit.folder)) - {commit.rows.path, f"{commit.folder}/commit.json"}
    assert [Path(path).name[:5] for path in left] == ["rows-"]  # the part of the loser, which no commit names


def test_a_checkpoint_with_a_flipped_byte_changes_no_row(tmp_path):
    assert exit_code(str(tmp_path), 4) == -signal.SIGKILL
    (path,) = tmp_path.glob("cells/lengths/*/*/checkpoints/*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert exit_code(str(tmp_path)) == 0
    store = Store(str(tmp_path))
    assert rows(store) == [(word, 6) for word, _ in UNDISTURBED]


def test_a_segmentation_fault_of_an_item_costs_that_item_only(tmp_path):
    store = Store(str(tmp_path))
    leave_deaths(store, after_words(store))
    commit, _ = run(store, {"dog": "segfault"})
    assert [row.word for row in store.read_part(commit.rows, LengthRecord)] == ["ant", "bee", "cow", "elk", "fox"]
    (reject,) = store.read_part(commit.rejects, RejectRecord)
    assert (reject.item_id, reject.kind, reject.reason) == ("dog", "crashed", "process_died")


MEMORY = 1 << 30
CGROUPS = Path("/sys/fs/cgroup/memory") if Path("/sys/fs/cgroup/memory").is_dir() else Path("/sys/fs/cgroup")
MAXIMUM = "memory.limit_in_bytes" if CGROUPS.name == "memory" else "memory.max"


@pytest.fixture
def cgroup():
    """A cgroup with a small memory, where this process may make one."""
    folder = CGROUPS / f"anything3d-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / MAXIMUM).write_text(str(MEMORY))
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    yield folder
    with suppress(OSError):
        folder.rmdir()


def run_in_cgroup(root: str, folder: Path, others: int) -> None:
    """Make a cell of which one item eats memory without end; `others`: bytes that are taken already."""
    store = Store(root)
    unit = after_words(store)
    leave_deaths(store, unit)
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    taken = mmap.mmap(-1, others + 1)
    for page in range(0, others, mmap.PAGESIZE):
        taken[page] = 1
    batch.WAITS_S = ()
    try:
        run(store, {"dog": "eat"})
    except OutOfMemory as error:
        Path(root, "said").write_text(str(error))


def test_an_item_that_takes_the_memory_is_rejected_and_its_neighbours_survive(tmp_path, cgroup):
    assert exit_of(run_in_cgroup, str(tmp_path), cgroup, 0) == 0
    store = Store(str(tmp_path))
    commit = cell.find(LENGTHS, after_words(store), store)
    assert [row.word for row in store.read_part(commit.rows, LengthRecord)] == ["ant", "bee", "cow", "elk", "fox"]
    (reject,) = store.read_part(commit.rejects, RejectRecord)
    assert (reject.item_id, reject.kind, reject.reason) == ("dog", "crashed", "out_of_memory")
    assert reject.message.startswith("dog: the memory was short, and the process was killed. It was seen with ")
    assert reject.message.endswith(" GB of 1.1 GB.")


def test_an_item_that_is_killed_because_others_have_the_memory_is_not_rejected(tmp_path, cgroup):
    """The system takes the process of isolated items first, also one that has less than half of the memory."""
    assert exit_of(run_in_cgroup, str(tmp_path), cgroup, 550 << 20) == 0
    assert (tmp_path / "said").read_text().startswith("out_of_memory: dog: the memory was short")
    store = Store(str(tmp_path))
    assert cell.find(LENGTHS, after_words(store), store) is None


def fault_of(root: str) -> str:
    """What a call says that the storage ends; nothing, if it does not."""
    try:
        run(Store(root))
    except MachineError as error:
        return str(error)
    return ""


def fill_the_disk(root: str) -> None:
    """Fill the disk at `root` but for more and more of its pages, until the cell fits."""
    after_words(Store(root))
    first = {path: path.read_bytes() for path in Path(root).rglob("cells/*/*/*/*") if path.is_file()}
    filler, said, pages = Path(root, "filler"), ["begin"], 0
    while said[-1]:
        room = os.statvfs(root)
        filler.write_bytes(bytes((room.f_bavail - pages) * room.f_frsize))
        said.append(fault_of(root))
        filler.unlink()
        pages += 1
        assert {path: path.read_bytes() for path in first} == first
        assert bool(said[-1]) == (cell.find(LENGTHS, after_words(Store(root)), Store(root)) is None)
    assert len(said) > 4
    for line in said[1:-1]:
        assert line.startswith("storage_failed: ")
        assert line.endswith("No space left on device")
        assert "\n" not in line
    assert rows(Store(root)) == UNDISTURBED
    assert list(Path(root).rglob("draft#*")) == []


def write_protect(root: str) -> None:
    """What is there is found on a disk that cannot be written; what is not there is one line, and is made later."""
    store = Store(root)
    words = after_words(store)
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)
    assert after_words(store) == words
    assert "Read-only file system" in fault_of(root)
    subprocess.run(["mount", "-o", "remount,rw", root], check=True)
    assert fault_of(root) == ""
    assert rows(store) == UNDISTURBED


@pytest.mark.skipif(subprocess.run([*NAMESPACE, "true"], check=False).returncode != 0, reason="no user namespaces here")
@pytest.mark.parametrize("test", [fill_the_disk, write_protect], ids=lambda test: test.__name__)
def test_a_disk_that_is_full_or_write_protected_is_one_line_and_the_same_call_finishes_later(tmp_path, test):
    """A small disk in memory, in a process with mounts of its own."""
    script = (
        f"mount -t tmpfs -o size=256k none {tmp_path} && exec {sys.executable} -c "
        f"'from tests.pipeline import test_faults; test_faults.{test.__name__}(\"{tmp_path}\")'"
    )
    done = subprocess.run([*NAMESPACE, "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def bucket(monkeypatch):
    """A server whose clients wait for an answer for a short time only."""
    monkeypatch.setenv("AWS_TIMEOUT", "300ms")
    with s3.serve() as server:
        after_words(Store("s3://b/corpus"))
        yield server


def test_a_storage_that_is_busy_for_a_while_is_asked_again(bucket):
    bucket.busy = 4
    run(Store("s3://b/corpus"))
    assert bucket.busy == 0
    assert rows(Store("s3://b/corpus")) == UNDISTURBED


def test_a_storage_that_does_not_answer_for_a_while_is_asked_again(bucket):
    bucket.silent = 2
    run(Store("s3://b/corpus"))
    assert bucket.silent == 0
    assert rows(Store("s3://b/corpus")) == UNDISTURBED


def test_a_commit_whose_answer_is_lost_stands_and_is_known_as_its_own(bucket):
    bucket.loses_answer_to = "/commit.json"
    commit, made = run(Store("s3://b/corpus"))
    assert (made, bucket.loses_answer_to) == (True, "")
    assert rows(Store("s3://b/corpus")) == UNDISTURBED
    assert json.loads(bucket.objects[f"corpus/{commit.folder}/commit.json"])["attempt"] == commit.attempt

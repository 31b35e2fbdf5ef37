"""The memory that this process shares with others: that of its cgroup, or else that of the machine. On Linux only."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa

CGROUPS = Path("/sys/fs/cgroup")
FILES = {  # version of cgroups -> folder below CGROUPS; the limit; what is used; the pages that can be dropped
    2: ("", "memory.max", "memory.current", "inactive_file"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def room() -> tuple[int, int]:
    """Bytes in all, and bytes that are free: where the least is free, in the cgroups around this process or outside."""
    machine = psutil.virtual_memory()
    return min([(machine.total, machine.available), *_cgroups()], key=lambda place: place[1])


def owned(pid: int) -> int:
    """Bytes that a process has in memory and that belong to no file, such as a library; 0 if it has ended."""
    try:
        has = psutil.Process(pid).memory_info()
        return int(has.rss - getattr(has, "shared", 0))
    except psutil.Error:
        return 0


def kills() -> int:
    """How many processes the system has killed for want of memory since it started, also those of cgroups."""
    return _number(Path("/proc/vmstat"), "oom_kill")


def give_back() -> None:
    """Let the system have the memory that this process has freed. Otherwise the allocators keep much of it.

    With glibc they keep a part of each thread's, and so a process that makes one thing after another in several threads
    grows for hours, though it holds no more objects.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _cgroups() -> Iterator[tuple[int, int]]:
    """Of each cgroup around this process that has a limit: bytes in all, and bytes that are free."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, limit, used, droppable = FILES[1 if controllers else 2]
        around = Path(path.strip("/"))
        for cgroup in (CGROUPS / folder / own for own in (around, *around.parents)):
            said = _text(cgroup / limit).strip()
            if said.isdigit() and int(said) < psutil.virtual_memory().total:
                taken = int(_text(cgroup / used) or 0) - _number(cgroup / "memory.stat", droppable)
                yield int(said), int(said) - taken


def _number(file: Path, name: str) -> int:
    """Of the line `name number`; 0 if there is none."""
    return next((int(line.split()[1]) for line in _text(file).splitlines() if line.startswith(f"{name} ")), 0)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""

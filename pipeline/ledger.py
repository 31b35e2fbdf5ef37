"""The ledger of a cell says which processes work on it, and how many have died while they did.

Every attempt has a file. The process writes it when the attempt begins, writes it again every HEARTBEAT_S, and removes
it when the attempt ends, also after an error. If the writer of a file is dead, the file counts as a death. On the same
machine, the process table says whether the writer lives. For other machines the age of the file decides, measured by
the clock of the storage.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError

from pipeline.store import Store

HEARTBEAT_S = 30.0
RUNS = "runs"  # folder of the attempts that are whole runs
LEASE_S = 150.0  # age of a file whose writer, on another machine, is taken for dead

log = logging.getLogger(__name__)


class Attempt:
    """An attempt on a cell, as a context. `dead` and `living` are the files of others that it has found.

    `dead` also has what these files say. `left` are the paths of all that others have left in the folder, these files
    among them.

    With `leave_on_error` the file of an attempt that ends in an error stays, for those who come after it.
    """

    def __init__(self, store: Store, folder: str, *, leave_on_error: bool = False) -> None:
        self.name = uuid.uuid4().hex
        self.dead: dict[str, dict[str, Any]] = {}
        self.living: list[str] = []
        self.left: list[str] = []
        self._store, self._folder, self._leave_on_error = store, folder, leave_on_error
        self._path = f"{folder}/attempts/{self.name}.json"
        self._said = whoami()
        self._beating = threading.Lock()  # no heartbeat writes the file again after the end has removed it

    def __enter__(self) -> "Attempt":
        self.look()
        _at_work.add(self)
        _start_heart(os.getpid())
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._beating:
            _at_work.discard(self)
        if kind is None or not self._leave_on_error:
            with suppress(BaseError, OSError):  # the storage may be what ended it; a file that stays is one more death
                self._store.delete([self._path])

    def look(self) -> None:
        """Find the others once more."""
        self.says()
        entries = self._store.entries(self._folder)
        own = entries.pop(self._path, None)
        self.left, self.dead, self.living = list(entries), {}, []
        if own is None:  # somebody has cleaned up meanwhile
            return
        for path, entry in entries.items():
            if not path.startswith(f"{self._folder}/attempts/"):
                continue
            says = read(self._store, path)
            if lives(says, own.modified - entry.modified):
                self.living.append(path)
            else:
                self.dead[path] = says

    def says(self, **more: object) -> None:
        """Write the file, with more in it from now on."""
        self.will_say(**more)
        self._store.write(self._path, json.dumps(self._said).encode())

    def will_say(self, **more: object) -> None:
        """Have more in the file from the next heartbeat on."""
        self._said = {**self._said, **more}

    def close_the_dead(self) -> None:
        """Remove the files of the dead: what they were at has been done, nobody asks for them again."""
        self._store.delete(list(self.dead))

    def beat(self) -> None:
        """Write the file again, if this process is at work on it: a forked one knows the attempts of its parent."""
        try:
            with self._beating:
                if self in _at_work and self._said["pid"] == os.getpid():
                    self.says()
        except (BaseError, OSError) as error:  # the next one tries again; a death too many changes no row
            log.warning("no heartbeat at %s: %s", self._path, error)


_at_work: set[Attempt] = set()


@cache
def _start_heart(pid: int) -> None:
    """Start the thread that writes the files of all attempts of this process again, once for each process."""
    threading.Thread(target=_beat, name=f"heartbeats of {pid}", daemon=True).start()


def _beat() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        for attempt in list(_at_work):
            attempt.beat()


def lives(says: dict[str, Any], age: timedelta) -> bool:
    """Whether the writer of an attempt's file lives, by what the file says and by its age."""
    if says.get("machine") == machine() and says.get("process_started"):
        return started(says.get("pid")) == says["process_started"]
    return age.total_seconds() <= LEASE_S


def whoami() -> dict[str, Any]:
    """What the ledger keeps of an attempt, also for those who ask which process on which machine died."""
    return dict(_process(os.getpid()))


@cache
def _process(pid: int) -> Mapping[str, Any]:
    return {"machine": machine(), "host": socket.gethostname(), "pid": pid, "process_started": started(pid)}


@cache
def machine() -> str:
    """The running system and the process numbers in it: a container has numbers of its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux: nobody else has this name, so ages decide
        return f"{socket.gethostname()}/{uuid.getnode()}"


def started(pid: object) -> str:
    """When the process with that number started, in the system's ticks; "" if there is none, or it has ended."""
    if not isinstance(pid, int):
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def read(store: Store, path: str) -> dict[str, Any]:
    """What an attempt's file says; nothing if it cannot be read."""
    try:
        says = json.loads(store.find(path) or b"")
    except ValueError:
        return {}
    return says if isinstance(says, dict) else {}

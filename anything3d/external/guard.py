"""A program that starts a command, and kills it with all of its process group when it is not wanted any more.

Whoever starts this program holds the other end of a pipe. The system closes that end however its process ends, also
after a SIGKILL. A thread that waits for this needs no signal, and the command needs to do nothing for it. The folder
that the command was given is deleted at the end. This file imports the standard library only: it runs as it is.

    python guard.py PIPE FOLDER COMMAND ARGUMENT...
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1  # linux/prctl.h
NOT_FOUND = 127  # the exit code of a shell for a command that cannot be started
BY_SIGNAL = 128  # a shell adds this to the number of the signal


def _die_with_parent() -> None:
    """If this program itself is killed, the system kills the command. Other systems than Linux do not know how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_group(number: int) -> None:
    try:
        os.killpg(number, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nobody is left in it; macOS says the second
        return


def main(pipe: int, folder: str, command: list[str]) -> int:
    """The exit code of the command, as a shell gives it."""
    try:
        child = subprocess.Popen(command, process_group=0, preexec_fn=_die_with_parent)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{command[0]}: {error}\n")
        return NOT_FOUND
    for stream in (0, 1):  # only the command has them, so that their ends are seen
        os.close(stream)

    def watch() -> None:
        os.read(pipe, 1)  # nobody writes: it returns at the end
        _kill_group(child.pid)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = child.wait()
    _kill_group(child.pid)
    if select.select([pipe], [], [], 0)[0]:  # the command may have ended because whoever wanted it did
        watcher.join()  # it ends this process when the folder is deleted
    return BY_SIGNAL - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))

"""A command that runs beside this process: lines go in and lines come out, within a time. It imports no torch.

Its standard error is told line by line. It dies with this process, however this process ends (guard.py).
"""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path

from anything3d.errors import Anything3DError, ConfigError, Crashed, InputError
from anything3d.external import guard

Say = Callable[[str], None]  # hears of every line of the standard error
LINE_BYTES = 1 << 20  # of one line of the standard output
PIPE_BYTES = 1 << 16  # read at once
TICK_S = 1.0  # a longer time between two looks at the clock is a pause of the machine, and counts as this
GONE_S = 10.0  # in which a command that has closed its output has to end
SAID_BYTES = 500  # of one line of the standard error
SAID_LINES = 200  # of the standard error that are told for one call; those beyond are counted
LAST_WORDS = 3  # lines of the standard error in a message
# Of this Python. A command with a Python of its own must not get them.
OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class Command:
    """A running command. `scratch` is a folder of its own, which is deleted when it ends."""

    def __init__(self, words: str, folder: str, say: Say) -> None:
        """Raises: ConfigError if `folder` is none. A command that cannot be started ends at once, and says so."""
        if folder and not Path(folder).is_dir():
            raise ConfigError("external_start", f"reconstruct.external.folder is {folder!r}, which is no folder here")
        self.scratch = Path(tempfile.mkdtemp(prefix="anything3d-"))
        self._say, self._told, self._words = say, 0, deque[str](maxlen=LAST_WORDS)
        ours, theirs = _pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-IS", guard.__file__, str(theirs), str(self.scratch), *shlex.split(words)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder or self.scratch,
            env={name: value for name, value in os.environ.items() if name not in OURS},
            pass_fds=(theirs,),
            start_new_session=True,  # Ctrl-C is for us
        )
        os.close(theirs)
        ends = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._in, self._out, self._err = (end for end in ends if end is not None)
        self._lines, self._errors = bytearray(), bytearray()
        self.end = weakref.finalize(self, _end, self._process, ours, self.scratch)

    def send(self, line: str) -> None:
        """Write a line to its standard input. If it has ended, `line` says so."""
        self._told = 0
        try:
            self._in.write(line.encode() + b"\n")
        except BrokenPipeError:
            return

    def line(self, seconds: float) -> str | Anything3DError:
        """The next line of its standard output, or why there is none: Crashed("external_timeout"),
        Crashed("external_died") or InputError("external_bad_output"). A command that gives none is no more use."""
        left = seconds
        while left > 0:
            text, newline, rest = self._lines.partition(b"\n")
            if newline:
                self._lines = rest
                return text.decode(errors="replace")
            if len(self._lines) > LINE_BYTES:
                start = self._lines[:80].decode(errors="replace")
                return InputError("external_bad_output", f"a line has more than {LINE_BYTES} bytes: {start!r}...")
            before = time.monotonic()
            if self._ready(min(TICK_S, left)):
                some = os.read(self._out.fileno(), PIPE_BYTES)
                if not some:
                    return Crashed("external_died", self._end_in_words())
                self._lines += some
            left -= min(time.monotonic() - before, TICK_S)
        return Crashed("external_timeout", f"no line came within {seconds:g} s{self._last_words()}")

    def tell(self) -> None:
        """Tell how many lines of the standard error have not been told since the last call."""
        self._ready(0)
        if self._told > SAID_LINES:
            self._say(f"... and {self._told - SAID_LINES} more lines")

    def _ready(self, seconds: float) -> bool:
        """Whether the standard output has something to read, or has ended. The standard error is read here."""
        heard = [] if self._err.closed else [self._err.fileno()]
        ready = connection.wait([self._out.fileno(), *heard], seconds)
        if heard and heard[0] in ready:
            self._hear(0)
        return self._out.fileno() in ready

    def _hear(self, seconds: float) -> None:
        """Read the standard error and tell its whole lines. What a progress bar overwrites is left out."""
        if not connection.wait([self._err.fileno()], seconds):
            return
        some = os.read(self._err.fileno(), PIPE_BYTES)
        if not some:
            self._err.close()
        self._errors += some
        *lines, rest = self._errors.split(b"\n")
        self._errors = rest.rsplit(b"\r", 1)[-1][-SAID_BYTES:] if some else bytearray()
        for line in lines if some else [*lines, rest]:
            last = line.rstrip(b"\r").rsplit(b"\r", 1)[-1]
            if text := last[:SAID_BYTES].decode(errors="replace").strip():
                self._words.append(text)
                self._told += 1
                if self._told <= SAID_LINES:
                    self._say(text)

    def _end_in_words(self) -> str:
        """How it has ended, after it has closed its output."""
        try:
            code = self._process.wait(GONE_S)
        except subprocess.TimeoutExpired:
            return f"it closed its standard output and went on{self._last_words()}"
        end = time.monotonic() + GONE_S  # a program that left the process group may keep its standard error
        while not self._err.closed and time.monotonic() < end:
            self._hear(TICK_S)
        if code > guard.BY_SIGNAL and (number := code - guard.BY_SIGNAL) in signal.valid_signals():
            return f"the signal {signal.Signals(number).name} ended it{self._last_words()}"
        return f"it ended with exit code {code}{self._last_words()}"

    def _last_words(self) -> str:
        return f"; it said: {' | '.join(self._words)}" if self._words else ""


def _pipe() -> tuple[int, int]:
    """Our end and that of the guard, which is not 0, 1 or 2 even if this process has closed one of them."""
    theirs, ours = os.pipe()
    kept = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3), fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(theirs)
    os.close(ours)
    return kept[1], kept[0]


def _end(process: "subprocess.Popen[bytes]", pipe: int, scratch: Path) -> None:
    """Kill the command with its process group: the guard sees the end of the pipe. Delete its folder."""
    os.close(pipe)
    process.wait()
    shutil.rmtree(scratch, ignore_errors=True)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()

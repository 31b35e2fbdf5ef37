"""What the commands share: the options that make settings, the exit codes, the signals, and errors as one line."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anything3d.errors import MachineError
    from pipeline.config import Config
    from pipeline.release.snapshot import Snapshot

Preset = Annotated[
    str, typer.Option("--preset", help="Settings to begin with; mini knows only the mini world, default photographs.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file over the preset.", exists=True, dir_okay=False)
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over both, as caption.beams=5; repeatable.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="host:port of a Ray cluster to join, over RAY_ADDRESS; without either, a Ray of its own."
    ),
]
MaxFailed = Annotated[
    float, typer.Option("--max-failed", min=0, max=1, help="Share of the items of a stage that may fail; see below.")
]

CorpusArgument = Annotated[
    str, typer.Argument(metavar="CORPUS", help="The --out of `anything3d run`: a folder or s3://bucket/prefix.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Say on standard error, of every commit, what went in and what came out.")
]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="Add the same lines, and all warnings, to this file.", dir_okay=False)
]

PRESETS = Path(__file__).parent / "presets"
MAX_FAILED = 0.05
SHOW_CURSOR = "\x1b[?25h\n"
LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
DONE, NOT_BALANCED, IMPOSSIBLE, TOO_FEW, MACHINE_FAILED, LIMIT_REACHED, GATE_REFUSED, NO_OBJECT = range(8)
CODES = (
    "Exit codes: 0 done; 1 an item was lost (not balanced), or a fault of this program; 2 what was asked for is"
    " impossible (a setting, a path, weights, a photo); 3 ended, but with more failed items than --max-failed (of the"
    " shards, photos, masks or objects of a stage, the share that failed or crashed; skipped ones do not count); 4 the"
    " machine failed (memory, storage, network, device, Ray), the same command tries again; 5 --max-gpu-hours or"
    " --max-cost was reached, what is finished is published, the same command continues; 6 a gate of the nightly run"
    " refused what was made, the old snapshot stays; 7 ended without any object; 130, 143, 129 stopped by Ctrl-C,"
    " SIGTERM, SIGHUP, the same command continues."
)


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Ends the command with one line and the exit code that CODES gives, if an error or a signal ends it."""
    with _ended_by_signals():
        try:
            from anything3d.errors import Anything3DError

            yield
        except Exception as error:
            reason = error if isinstance(error, Anything3DError) else _fault(error)
            if reason is None:
                raise
            typer.echo(f"anything3d: {' '.join(str(reason).split())}", err=True)
            _leave(exit_code(reason))
            raise typer.Exit(exit_code(reason)) from error


def exit_code(error: Exception) -> int:
    """What a command that this error ends says to its shell."""
    from anything3d.errors import Bug, GateRefused, LimitReached, MachineError, NoObject, TooFew

    codes: dict[type[Exception], int] = {
        Bug: NOT_BALANCED,
        MachineError: MACHINE_FAILED,
        LimitReached: LIMIT_REACHED,
        GateRefused: GATE_REFUSED,
        NoObject: NO_OBJECT,  # before TooFew, whose kind it is
        TooFew: TOO_FEW,
    }
    return next((code for kind, code in codes.items() if isinstance(error, kind)), IMPOSSIBLE)


def _fault(error: Exception) -> "MachineError | None":
    """What the machine has to do with it; None for a fault of this program, whose traceback is wanted."""
    from pipeline.batch import machine_fault

    return None if isinstance(error, ImportError | BrokenPipeError) else machine_fault(error)


@contextmanager
def logs(verbose: bool, file: Path | None) -> Iterator[None]:
    """What pipeline/ logs meanwhile goes to standard error, from INFO on or warnings alone, and from INFO on to `file`.

    Raises: OSError if the file cannot be written.
    """
    log, before = logging.getLogger("pipeline"), logging.getLogger("pipeline").level
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.INFO if verbose else logging.WARNING)
    handlers: list[logging.Handler] = [shown]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(LOG_LINE))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def join(address: str | None) -> None:
    """Name the Ray cluster that this command joins, if it needs Ray at all."""
    if address is not None:
        os.environ["RAY_ADDRESS"] = address


def read_settings(preset: str, config: Path | None, settings: list[str] | None) -> "Config":
    """The preset, the file over it, `--set` over both.

    Raises: ConfigError.
    """
    from pipeline.config import load
    from pipeline.input.text import text_of

    return load([read_preset(preset), *([text_of(config.read_bytes())] if config else [])], settings or [])


def read_settings_like(snapshot: "Snapshot", settings: list[str] | None) -> "Config":
    """The settings of the command that made a snapshot, `--set` over them.

    Raises: ConfigError if this version does not know them, or if no run made the snapshot.
    """
    from anything3d.errors import ConfigError
    from pipeline.config import load

    if snapshot.made_by.command != "run":
        raise ConfigError(
            "not_a_run",
            f"Snapshot {snapshot.number} was made by `anything3d {snapshot.made_by.command}`, not by a run.",
        )
    return load([], settings or [], snapshot.made_by.settings)


def read_preset(name: str) -> str:
    """The TOML of a preset.

    Raises: ConfigError for an unknown name.
    """
    from anything3d.errors import ConfigError

    known = sorted(path.stem for path in PRESETS.glob("*.toml"))
    if name not in known:
        raise ConfigError("preset", f"There is no preset {name!r}. Known are {', '.join(known)}.")
    return (PRESETS / f"{name}.toml").read_text()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the process in seconds, with one line; ignored ones stay ignored, as with nohup.

    Python's own handlers run in the main thread alone, which may be deep in a computation, or wait for Ray for ever. So
    they do nothing here, and a thread ends the process.
    """
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is _told:
        yield
        return
    arrivals, told = os.pipe()
    os.set_blocking(told, False)
    threading.Thread(target=_end_when_told, args=(arrivals, numbers), daemon=True).start()
    before_fd = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _told) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        os.close(told)  # ends the thread


def _told(number: int, frame: object) -> None:
    """The thread has been told of the signal already."""


def _end_when_told(arrivals: int, numbers: list[signal.Signals]) -> None:
    """Wait for one of the signals; then leave everything as it is, and end. More of them change nothing."""
    while number := os.read(arrivals, 1):
        if number[0] in numbers:
            line = (
                f"anything3d: stopped by {signal.Signals(number[0]).name}; the same command continues from what is done"
            )
            shown = SHOW_CURSOR if os.isatty(2) else ""  # a table that is drawn has hidden it
            saying = threading.Thread(target=os.write, args=(2, f"{shown}{line}\n".encode()), daemon=True)
            saying.start()
            saying.join(1.0)  # nobody may read it
            _abandon()
            os._exit(128 + number[0])
    os.close(arrivals)


def _leave(code: int) -> None:
    """End this process at once if Ray is in use, after its processes: Python's own end would wait for it."""
    if _abandon():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _abandon() -> bool:
    """Whether Ray was in use; it is ended, whatever it does."""
    session = sys.modules.get("pipeline.session")
    return bool(session and session.abandon())

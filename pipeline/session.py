"""This process's Ray, which is a private one or the cluster that RAY_ADDRESS names. It ends even if something hangs.

A private Ray belongs to one process. It listens on loopback only, has a folder of its own, and ends with the process.
The processes of a private Ray, and this process's workers on any cluster, import only from the package and the
environment. Ray puts the folder in which a process joins it on the path of the workers, so the process joins it in an
empty folder.
"""

import atexit
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray
from ray._private import ray_constants
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._raylet import Config, persist_port  # type: ignore[attr-defined]  # made by C++

from anything3d.errors import ConfigError, MachineError
from pipeline import pools

OBJECT_STORE_BYTES = 200 << 20  # of a private Ray; rows are names
START_LIMITS_S = (30, 90, 180)  # for Ray's control store to come up, try by try; a busy machine is slow
JOIN_S = 10.0  # for a cluster's head to take a connection
LEAVE_S = 5.0  # for an orderly end
DEATH_S = 3.0  # for a killed process to be gone
LONGEST_BASE = 28  # bytes of a folder below which the names of Ray's sockets have at most 107, the system's limit
PACKAGES = ("schemas", "anything3d", "pipeline")  # what workers import
AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
VITAL = ("raylet", "gcs_server")  # processes without which a private Ray is dead


@dataclass(slots=True)
class Session:
    """What this process has of Ray beside the connection."""

    folder: Path  # its own; in a private Ray, also of Ray's logs and sockets
    private: bool
    vital: dict[str, psutil.Process] = field(default_factory=dict)
    seen: set[psutil.Process] = field(default_factory=set)  # of a private Ray, whoever started them
    leaving: bool = False

    def look(self) -> set[psutil.Process]:
        """Every process of a private Ray: those that this process started for it, what they started, and orphans."""
        if self.private:
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    if str(self.folder) in " ".join(child.cmdline()):
                        self.seen |= {child, *child.children(recursive=True)}
        return self.seen

    def look_everywhere(self) -> set[psutil.Process]:
        """As `look`, with the orphans that had just been started when their parent died: they run in the folder."""
        if self.private:
            for process in psutil.process_iter():
                with suppress(psutil.Error, OSError):
                    if Path(process.cwd()).is_relative_to(self.folder):
                        self.seen.add(process)
        return self.look()


_session: Session | None = None


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, as it does inside a Ray job; without it, or for `local`, start one.

    A Ray that somebody else runs on this machine is not joined.

    Raises: ConfigError if RAY_ADDRESS is no address of a cluster; MachineError if the cluster cannot be reached, or
    Ray does not start here.
    """
    global _session
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"
    folder = Path(tempfile.mkdtemp(prefix="a3d-", dir=_base()))
    _session = Session(folder, address == "local")
    atexit.register(disconnect)
    code = folder / "code"
    code.mkdir()
    _link_packages(code)
    with chdir(code), _own_handler(signal.SIGTERM):
        if _session.private:
            _start(_session)
            children = psutil.Process().children()
            _session.vital = {_name(process): process for process in children if _name(process) in VITAL}
        else:
            _join(address)


def disconnect() -> None:
    """Leave Ray; a private one ends with every process of it, within seconds, whatever hangs."""
    global _session
    if _session is None or _session.leaving:
        return
    own = _session
    own.leaving = True
    processes = own.look_everywhere()
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_S)
    _kill(processes | own.look_everywhere())
    shutil.rmtree(own.folder, ignore_errors=True)
    _session = None  # not before: a signal may come meanwhile, and `abandon` has to find them


def abandon() -> bool:
    """Whether Ray was in use; if so, every process of a private one is gone, and the caller must end this one at once.

    For an end in the middle of anything: Ray's own part of this process is not asked, and does not survive it. What
    works for it in a cluster is ended there when this process has gone.
    """
    if (own := _session) is None:
        return False
    vital = {process for process in own.look() if _name(process) in VITAL}
    for process in vital:
        with suppress(psutil.Error):
            process.suspend()  # so that nothing is started again
    _kill(own.look_everywhere() - vital)  # `disconnect` may be at work, and forget the session meanwhile
    shutil.rmtree(own.folder, ignore_errors=True)
    for process in vital:  # the last of all: this process does not outlive them for long
        with suppress(psutil.Error):
            process.kill()
    return True


def check_alive() -> None:
    """Raises: MachineError if a process without which a private Ray is dead has died."""
    if _session is None:
        return
    for name, process in _session.vital.items():
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise MachineError(
                "ray", f"Ray's {name} (process {process.pid}) died. See whether it was killed, or out of memory."
            )
    _session.look()  # their children are found as long as they live


def nodes_now() -> list[pools.Node]:
    """The nodes of the cluster that are up, by name; those that an autoscaler may start are not among them."""
    up = [node for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    nodes = [
        pools.Node(node["NodeID"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in up
    ]
    return sorted(nodes, key=lambda node: node.name)


def last_words(error: BaseException) -> str:
    """The first and the last line of what Ray says, in one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ... ".join(dict.fromkeys((lines[0], lines[-1])))[:500]


def _start(session: Session) -> None:
    """Start a Ray of this process's own, on loopback; slow machines get more than one try."""
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":  # Ray's default, of which it warns if nobody asks
        Config.initialize("")  # Ray has read the environment before
    for limit_s in START_LIMITS_S:
        os.environ["RAY_gcs_server_port_wait_time_s"] = str(limit_s)  # noqa: SIM112 - its name
        try:
            with _small_ray():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    logging_level=logging.WARNING,
                    _temp_dir=str(session.folder),
                    _system_config={"enable_metrics_collection": False},
                )
        except Exception as error:  # noqa: BLE001 - Ray has no class for it
            failed = error
            ray.shutdown()
            _kill(session.look())
        else:
            return
    raise MachineError(
        "ray_start",
        f"Ray did not start in {len(START_LIMITS_S)} tries: {last_words(failed)} See whether the machine is too busy.",
    ) from failed


@contextmanager
def _small_ray() -> Iterator[None]:
    """Let Ray start on loopback, without the servers of the dashboard and of the autoscaler.

    Ray starts both servers even if no dashboard is wanted, and waits for the first one. Each takes seconds of CPU. The
    raylet waits for the ports that its agents choose, and dies after 15 s. On a busy machine an agent needs longer. So
    the ports are chosen here.
    """
    choose = RayParams.update_pre_selected_port

    def with_ports(params: RayParams) -> None:
        params.update(**{name: _free_port() for name in AGENT_PORTS})
        choose(params)

    def instead_of_dashboard(node: Node, **given: object) -> None:
        """Ray 2.60 does not tell this port to the raylet, which looks for it in a file."""
        port = node.dashboard_agent_listen_port
        persist_port(node.get_session_dir_path(), node.node_id, "dashboard_agent_listen_port", port)

    kept = {
        (RayParams, "update_pre_selected_port"): with_ports,
        (ray_constants, "ENABLE_RAY_CLUSTER"): False,  # else it takes no loopback
        (Node, "start_api_server"): instead_of_dashboard,
        (Node, "start_monitor"): lambda node: None,
    }
    before = {place: getattr(*place) for place in kept}
    try:
        for place, value in kept.items():
            setattr(*place, value)
        yield
    finally:
        for place, value in before.items():
            setattr(*place, value)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
    return port


def _join(address: str) -> None:
    """Join the cluster at `address`."""
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            "ray_address", f"{address} is where `ray job submit` sends jobs. To join a cluster, give its host:port."
        )
    host, _, port = address.rpartition(":")
    try:
        if (
            host and port.isdigit() and "/" not in host
        ):  # asked first, as Ray takes a minute to say that nobody is there
            socket.create_connection((host.strip("[]"), int(port)), JOIN_S).close()
        ray.init(address=address, logging_level=logging.WARNING)
    except ValueError as error:
        raise ConfigError(
            "ray_address", f"RAY_ADDRESS is {address!r}, which Ray does not take: {last_words(error)}"
        ) from error
    except Exception as error:
        raise MachineError("ray_unreachable", f"no Ray cluster answers at {address}: {last_words(error)}") from error


def _base() -> str:
    """The folder for temporary files; /tmp where that is too deep for Ray's sockets."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return base if len(os.fsencode(os.path.abspath(base))) <= LONGEST_BASE else "/tmp"


def _link_packages(code: Path) -> None:
    """Links to the packages in `code`, unless any process of this Python imports these very ones."""
    here = Path(__file__).parent
    line = [sys.executable, "-P", "-c", "import pipeline; print(*pipeline.__path__)"]
    imported = subprocess.run(line, cwd=code, capture_output=True, text=True, check=False).stdout.strip()
    if imported != str(here):
        for name in PACKAGES:
            (code / name).symlink_to(here.parent / name)


@contextmanager
def _own_handler(number: signal.Signals) -> Iterator[None]:
    """Keeps this process's handler of a signal: Ray replaces it, and its core prints a stack and aborts."""
    own = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and own is not None:
            signal.signal(number, own)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""  # it has just gone


def _kill(processes: set[psutil.Process]) -> None:
    """Kill them and wait until they are gone."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(processes), timeout=DEATH_S)

"""Measures rows: medians of runs in turn, and the memory that each side adds in a process of its own."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from tests.bench.row import Counted, Grown

PACKAGES = ("torch", "numpy", "Pillow", "pycocotools", "segment-anything", "transformers", "diffusers", "nerfacc")
SIDES = ("ours", "peer")


def measure(row, device):
    """The figures of a row, as JSON has them."""
    if isinstance(row, Grown):
        with tempfile.TemporaryDirectory() as folder:
            return {"number": row.number, "what": row.what, **row.run(Path(folder))}
    head = {"number": row.number, "what": row.what, "peer": row.peer, "at_least": row.at_least}
    if isinstance(row, Counted):
        ours, peer = row.count()
        return head | {"unit": row.unit, "ours": ours, "theirs": peer, "ratio": peer / ours}
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, row.make("full", Path(folder), device) as pair:
        same = pair.check(pair.ours(), pair.peer())  # this is the warm-up
        seconds = {side: [] for side in SIDES}
        for turn in range(row.pairs):
            for side in SIDES if turn % 2 == 0 else reversed(SIDES):
                seconds[side].append(_seconds(getattr(pair, side), device))
    figures = {"same": same, "load": [before, os.getloadavg()[0]], "pairs": row.pairs, "unit": "s", "seconds": seconds}
    if row.pairs:
        ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["peer"], strict=True)]
        ours, theirs = (statistics.median(seconds[side]) for side in SIDES)
        figures |= {"ours": ours, "theirs": theirs, "ratio": statistics.median(ratios)}
        figures |= {"lowest": min(ratios), "highest": max(ratios)}
    if row.memory:
        figures |= {f"{side}_mb": memory_of(row, side) for side in SIDES}
    return head | figures


def memory_of(row, side):
    """What one side adds to the memory of a process that has prepared its input, in MB."""
    command = [sys.executable, "-m", "tests.bench", "--memory-of", side, "--rows", row.number]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def print_memory(row, side, device):
    """Run one side once; print by how much the highest resident memory is above that before, in MB."""
    with tempfile.TemporaryDirectory() as folder, row.make("full", Path(folder), device) as pair:
        Path("/proc/self/clear_refs").write_text("5")  # the highest value begins anew
        before = _status_mb("VmRSS")
        getattr(pair, side)()
        print(_status_mb("VmHWM") - before)


def machine():
    """On what and with what all rows were measured."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip(),
    }


def table(results):
    """The results as Markdown."""
    lines = [
        "| # | ours | against | ours | theirs | ratio (lowest .. highest) | wanted | memory added, ours and theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return lines + [_line(one) for one in results]


def write(path, results):
    """The figures with the machine, as JSON."""
    path.write_text(json.dumps({"machine": machine(), "rows": results}, indent=1) + "\n")


def _line(one):
    if "exponent" in one:
        seconds = ", ".join(f"{size['cpu_s']:.0f} s" for size in one["sizes"])
        memory = ", ".join(f"{size['all_mb']:,.0f} MB" for size in one["sizes"])
        return f"| {one['number']} | {one['what']} |  | {seconds} |  | exponent {one['exponent']:.2f} | 1 | {memory} |"
    ours, theirs, ratio = "", "", ""
    if "ratio" in one:
        ours, theirs = (f"{one[side]:.3g} {one['unit']}" for side in ("ours", "theirs"))
        ratio = f"{one['ratio']:.2f}"
    if "lowest" in one:
        ratio += f" ({one['lowest']:.2f} .. {one['highest']:.2f})"
    memory = f"{one['ours_mb']:,.0f} MB, {one['peer_mb']:,.0f} MB" if "ours_mb" in one else ""
    wanted = "" if one["at_least"] is None else f"{one['at_least']:g}"
    cells = (one["number"], one["what"], one["peer"], ours, theirs, ratio, wanted, memory)
    return f"| {' | '.join(cells)} |"


def _seconds(side, device):
    _wait(device)
    start = time.perf_counter()
    side()
    _wait(device)
    return time.perf_counter() - start


def _wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def _status_mb(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1000

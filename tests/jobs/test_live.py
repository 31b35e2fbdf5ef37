"""What a run draws on a terminal, and what it prints where there is none: a real process at a real terminal."""

import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

SCRIPT = """
from jobs.live import live
from pipeline.price import Spent
from pipeline.progress import Shown
from pipeline.remaining import Count, Left

COST = Spent(3600.0, 1800.0, 2.5)
stages = {"segment": Count(400, 0, 120, 3), "reconstruct": Count(1500, 700, 8, 1)}
work = {"stage": "reconstruct", "unit": "sa_1-0001+8-ab", "items": 8, "since": 1000.0, "step": 3400, "steps": 10000}
rates = {"segment": 96.0, "reconstruct": 6.4}
now = Shown(1090.0, 75.0, (0, 1, 2), stages, rates, [work], Left(3700, True), COST, "EUR")
with live() as (say, show):
    say("actors: [shared] 2")
    if show:
        show(now)
"""


def output(**streams):
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "40"}
    return subprocess.run([sys.executable, "-c", SCRIPT], env=env, check=True, **streams).stdout


def everything(terminal):
    """What processes write there until the last one has closed it."""
    data = b""
    with suppress(OSError):  # EIO: nobody has it open any more
        while some := os.read(terminal, 1 << 16):
            data += some
    return data


def test_a_terminal_shows_a_table_below_the_lines():
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(everything, ours)  # a terminal that nobody reads has room for little
        output(stdout=theirs, stderr=theirs)
        os.close(theirs)
        seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", reading.result().decode())
    os.close(ours)
    assert "actors: [shared] 2" in seen
    assert "1:15 · shards 0 finished, 1 begun, 2 in all · about 1:01:40 left" in seen
    assert "1 hours of actors, 0.5 GPU-hours, 2.50 EUR" in seen
    assert "reconstruct sa_1-0001+8-ab: step 3,400 of 10,000 after 1:30" in seen
    rows = [line.split() for line in seen.splitlines()]
    assert ["stage", "done", "of", "a", "minute", "rejected", "cells", "at", "work"] in rows
    assert ["segment", "120", "400", "96.0", "3", "0"] in rows
    assert ["reconstruct", "708", "1,500", "6.4", "1", "1"] in rows


def test_a_file_gets_the_lines_alone():
    assert output(stdout=subprocess.PIPE).decode() == "actors: [shared] 2\n"

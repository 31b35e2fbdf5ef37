"""The soak of tests/soak.py, with few kills."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_kills_at_seeded_moments_leave_a_corpus_as_if_nobody_had_died():
    """In a process of its own, since it forks, and other tests have started threads."""
    command = [sys.executable, "-m", "tests.soak", "--kills", "20", "--seed", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    counts = {name: int(count) for count, name in re.findall(r"(\d+) ([a-z ]+)", done.stdout.splitlines()[-1])}
    assert counts.pop("kills") >= 20
    assert counts.pop("corpora") > 0
    assert {name for name, count in counts.items() if count} <= {"faults", "isolated"}

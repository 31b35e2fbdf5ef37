"""Memory that a process has freed goes back to the system."""

import sys

import psutil
import pytest

from pipeline import memory

PIECES, PIECE_BYTES, KEPT = 20_000, 10_000, 50


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is asked")
def test_freed_memory_goes_back() -> None:
    """Pieces that stay in between keep the allocator from giving back the rest by itself."""
    process = psutil.Process()
    pieces = [bytes([number % 256]) * PIECE_BYTES for number in range(PIECES)]
    kept = pieces[::KEPT]
    del pieces
    freed = process.memory_info().rss
    memory.give_back()
    assert freed - process.memory_info().rss > 0.5 * PIECES * PIECE_BYTES
    assert len(kept) == PIECES // KEPT

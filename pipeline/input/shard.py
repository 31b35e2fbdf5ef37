"""A shard: one tar at a path or a URL, read from end to end or by byte ranges."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import obstore

from anything3d.errors import MachineError
from pipeline.location import open_store, split

WINDOW = 8 << 20  # bytes fetched at once while a shard is read from end to end
WINDOWS_AHEAD = 3  # fetched while one is looked at


class Shard:
    """One tar: all of it in order, or byte ranges of it."""

    def __init__(self, location: str) -> None:
        self.location = location
        folder, self._name = split(location)
        self._store = open_store(folder)
        self.size = int(obstore.head(self._store, self._name)["size"])

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer at the end of the shard."""
        size = min(size, self.size - offset)
        return bytes(obstore.get_range(self._store, self._name, start=offset, length=size)) if size > 0 else b""

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Several (offset, size) at once; near ones are fetched together."""
        filled = [(start, length) for start, length in ranges if length]  # obstore refuses a range without bytes
        starts, lengths = [start for start, _ in filled], [length for _, length in filled]
        fetched = obstore.get_ranges(self._store, self._name, starts=starts, lengths=lengths) if filled else []
        data = iter(fetched)
        return [bytes(next(data)) if length else b"" for _, length in ranges]

    def windows(self) -> Iterator[bytes]:
        """All bytes in order; the next few windows are fetched meanwhile.

        Raises: MachineError("shard_changed") if the shard has become shorter.
        """
        with ThreadPoolExecutor(WINDOWS_AHEAD) as threads:
            ahead: deque[tuple[int, Future[bytes]]] = deque()
            for offset in range(0, self.size, WINDOW):
                ahead.append((offset, threads.submit(self.read, offset, WINDOW)))
                if len(ahead) > WINDOWS_AHEAD:
                    yield self._whole(*ahead.popleft())
            while ahead:
                yield self._whole(*ahead.popleft())

    def _whole(self, offset: int, fetched: Future[bytes]) -> bytes:
        data, wanted = fetched.result(), min(WINDOW, self.size - offset)
        if len(data) != wanted:
            raise MachineError(
                "shard_changed",
                f"{self.location}: {len(data)} bytes came at byte {offset} instead of {wanted}."
                " Give the same command again.",
            )
        return data

"""Reading along a file that a job writes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL = 0.05


class Tail:
    """Whole lines of a file that grows, each once; one that is not there yet is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._part = b""

    def lines(self) -> list[str]:
        """What has been completed since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                text = file.read()
        except OSError:
            return []
        self._at += len(text)
        *whole, self._part = (self._part + text).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def rest(self) -> list[str]:
        """A last line without its end."""
        part, self._part = self._part, b""
        return [part.decode(errors="replace")] if part else []


def follow_file(path: Path, is_running: Callable[[], bool]) -> Iterator[str]:
    """Lines of `path` as they come, until the job that writes them has ended."""
    tail, running = Tail(path), True
    while running:
        running = is_running()
        yield from tail.lines()
        if running:
            time.sleep(_POLL)
    yield from tail.rest()

"""Ending what takes too long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float, kill: Callable[[], object]) -> Iterator[threading.Event]:
    """Calls `kill` once the block has taken `seconds`; the event then is set."""
    passed = threading.Event()

    def end() -> None:
        passed.set()
        kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield passed
    finally:
        timer.cancel()

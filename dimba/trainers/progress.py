"""The progress of slow work, reported from time to time."""

import sys
import time
from collections.abc import Callable

Progress = Callable[[int], None]  # takes the rows read so far


def ignored(_count: int) -> None:
    """Reports nothing."""


def throttled(seconds: float, report: Progress) -> Progress:
    """A function that passes a count on to `report` at most once in `seconds`."""
    last = time.monotonic()

    def report_now_and_then(count: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            report(count)

    return report_now_and_then


def row_printer(done: str = "tokenised") -> Progress:
    """A function that prints the rows done: one line, rewritten, on a terminal; a line every 5 s on a pipe."""
    if sys.stdout.isatty():
        return throttled(0.2, lambda rows: print(f"\r\033[Kdata: {rows:,} rows {done}", end="\r", flush=True))
    return throttled(5.0, lambda rows: print(f"data: {rows:,} rows {done}", flush=True))

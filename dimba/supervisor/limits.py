"""Time limits of a job, and the detection of a hang."""

import os
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from dimba.common import contract

_FACTOR = 10  # times the usual step time without a step count as a hang
_LEAST_STEPS = 3  # steps before there is a usual step time
_LEAST_SECONDS = 120.0  # loading and saving take their time, too


@dataclass
class Limits:
    """Seconds that a job may take in all, and that it may take to save once it is asked to stop; None is unlimited."""

    job: float | None = None
    stop_grace: float | None = None
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits that the launcher has set."""
        return cls(_seconds(contract.ENV_TIME_LIMIT), _seconds(contract.ENV_STOP_GRACE))

    def is_over(self) -> bool:
        """Whether the job has used up its time."""
        return self.job is not None and time.monotonic() - self.started >= self.job


class HangDetector:
    """Watches metrics.jsonl, to which each step adds a line."""

    def __init__(self, metrics: Path | None) -> None:
        self._metrics = metrics
        self._last_write: float | None = None  # modification time of the file
        self._since = time.monotonic()
        self._step_seconds: deque[float] = deque(maxlen=50)
        self._least = _seconds(contract.ENV_HANG_SECONDS) or _LEAST_SECONDS

    def problem(self) -> str:
        """How long no step has come, if that is a hang; else empty."""
        try:
            written = self._metrics.stat().st_mtime if self._metrics else None
        except OSError:
            return ""
        now = time.monotonic()
        if written != self._last_write:
            if self._last_write is not None:
                self._step_seconds.append(now - self._since)
            self._last_write, self._since = written, now
        return self._overdue(now - self._since)

    def _overdue(self, waited: float) -> str:
        if len(self._step_seconds) < _LEAST_STEPS:
            return ""
        usual = statistics.median(self._step_seconds)
        if waited < max(_FACTOR * usual, self._least):
            return ""
        return f"no step for {waited:,.0f} s, a step usually takes {usual:,.1f} s"


def _seconds(variable: str) -> float | None:
    text = os.environ.get(variable, "")
    return float(text) if text else None

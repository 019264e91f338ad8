"""What ends a job beside the trainer: somebody who asks, a time limit, and steps that no longer come."""

import os
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from dimba.common import contract

_USUAL = 10  # times the usual time between two steps, and nothing has come
_FEW = 3  # steps, before anything is usual
_AT_LEAST = 120.0  # seconds, as loading and a save take their time too


def seconds(variable: str) -> float | None:
    """A number of seconds in the environment, if there is one."""
    text = os.environ.get(variable, "")
    return float(text) if text else None


@dataclass
class Limits:
    """Seconds that a job may take, and that it may take to save once it is told to stop."""

    whole: float | None = None
    grace: float | None = None
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of_environment(cls) -> "Limits":
        """As the launcher set them."""
        return cls(seconds(contract.ENV_TIME_LIMIT), seconds(contract.ENV_STOP_GRACE))

    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.whole is not None and time.monotonic() - self.started >= self.whole


class Steps:
    """Looks at the metrics: a job whose steps no longer come hangs."""

    def __init__(self, metrics: Path | None) -> None:
        self._metrics = metrics
        self._seen: float | None = None
        self._since = time.monotonic()
        self._took: deque[float] = deque(maxlen=50)
        self._least = seconds(contract.ENV_HANG_SECONDS) or _AT_LEAST

    def hang(self) -> str:
        """What is wrong, or nothing."""
        try:
            written = self._metrics.stat().st_mtime if self._metrics else None
        except OSError:
            return ""
        now = time.monotonic()
        if written != self._seen:
            if self._seen is not None:
                self._took.append(now - self._since)
            self._seen, self._since = written, now
        if len(self._took) < _FEW:
            return ""
        usual, waited = statistics.median(self._took), now - self._since
        if waited < max(_USUAL * usual, self._least):
            return ""
        return f"no step for {waited:,.0f} s, where one usually takes {usual:,.1f} s"

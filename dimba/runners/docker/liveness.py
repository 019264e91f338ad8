"""Whether a followed container runs, through restarts of the engine."""

import time
from collections.abc import Callable
from pathlib import Path

from dimba.common.errors import EngineFailed

_POLL = 0.2  # seconds between two questions to the engine
_PATIENCE = 120.0  # seconds that the engine may be away


class Liveness:
    """Asks `is_running` at intervals."""

    def __init__(self, is_running: Callable[[str], bool], job: str, last_word: Path) -> None:
        self._is_running, self._job, self._last_word = is_running, job, last_word
        self._asked, self._answered = 0.0, time.monotonic()

    def __call__(self) -> bool:
        """Whether the job runs: while the engine is away, until its last word; raises EngineFailed after a while."""
        now = time.monotonic()
        if now - self._asked < _POLL:
            return True
        self._asked = now
        try:
            running = self._is_running(self._job)
            self._answered = now
        except EngineFailed:
            if now - self._answered > _PATIENCE:
                raise
            running = not self._last_word.exists()
        return running

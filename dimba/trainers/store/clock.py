"""What runs beside an upload: the request to end and its deadline, the heartbeat, and the progress at the end."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from dimba.common.output_store import AT_END, AT_STOP, HEARTBEAT, NOT_SENT, SENT, pace
from dimba.trainers.store.filesystem import Store
from dimba.trainers.store.writer import is_taken_over, renew

_PROGRESS, _RARELY = 10.0, 60.0  # seconds between two lines on what is being sent, after training; at last
_TICK = 0.1


class End:
    """How training ended, once it has; at the deadline this process ends with a last word."""

    def __init__(self, last_word: Callable[[], None], progress: Callable[[], str]) -> None:
        self._last_word, self._progress = last_word, progress
        self._changed = threading.Event()
        self.how = ""
        self.deadline = float("inf")  # monotonic seconds

    def listen(self) -> None:
        """Reads requests from stdin: how training ended, a line each."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self.come(line.strip())
        if not self.how:
            os._exit(NOT_SENT)  # the supervisor was killed

    def come(self, how: str) -> None:
        """Ends the upload: it has until the deadline to send what is left."""
        limit = (AT_END if how == SENT else AT_STOP) * pace()
        self.deadline = min(self.deadline, time.monotonic() + limit)
        if not self.how:
            self.how = how  # a later request only shortens the wait
            threading.Thread(target=self._watch, daemon=True).start()
        self._changed.set()

    def give_up(self) -> None:
        """Brings the deadline forward to now."""
        self.deadline = time.monotonic()

    def wait(self, seconds: float) -> None:
        """Waits, but not beyond a request to end that has just come."""
        if self._changed.wait(seconds):
            self._changed.clear()

    def _watch(self) -> None:
        shown, pause = time.monotonic(), _PROGRESS
        while time.monotonic() < self.deadline:
            time.sleep(min(_TICK, max(0.0, self.deadline - time.monotonic())))
            if time.monotonic() - shown > pause * pace() and (text := self._progress()):
                print(text, flush=True)
                shown, pause = time.monotonic(), min(2 * pause, _RARELY)
        self._last_word()
        sys.stdout.flush()
        os._exit(NOT_SENT)  # a request to the store may take minutes more


class Heartbeat:
    """Renews the writer's note, as long as no other machine has continued the run."""

    def __init__(self, store: Store, writer: str) -> None:
        self._store, self._writer = store, writer
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._has_begun = False
        self.is_taken_over = False

    def start(self) -> None:
        """Begins in a thread of its own."""
        threading.Thread(target=self._run, daemon=True).start()

    def beat_once(self) -> None:
        """Renews the note, unless it was renewed already; raises OSError."""
        if not self._has_begun:
            self.beat()

    def beat(self) -> None:
        """Looks at the note, and renews it; raises OSError."""
        with self._lock:
            if self._over.is_set():
                return
            if is_taken_over(self._store, self._writer):
                self.is_taken_over = True
            else:
                renew(self._store, self._writer)
            self._has_begun = True

    def stop(self) -> None:
        """Ends it, so that a last note stays."""
        self._over.set()
        with self._lock:
            pass

    def _run(self) -> None:
        while not self._over.wait(HEARTBEAT * pace()) and not self.is_taken_over:
            with suppress(OSError):  # the upload reports a store that fails
                self.beat()

"""Probes of the machine and the Hub, which run in the background while the user reads."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
# The first prompt is drawn before a probe takes the processor from it.
_FIRST_PROMPT_SECONDS = 0.35


class _Probe:
    """One job, run once, in a daemon thread: it never keeps the program from ending."""

    def __init__(self, job: Callable[[], Any], delay: float) -> None:
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self._job, self._once = job, threading.Lock()
        self._start(delay)

    def hurry(self) -> None:
        """Start now, without the rest of the delay."""
        if not self._once.locked():
            self._start(0)

    def _start(self, delay: float) -> None:
        timer = threading.Timer(delay, self._run)
        timer.daemon = True
        timer.start()

    def _run(self) -> None:
        if not self._once.acquire(blocking=False):
            return
        try:
            self.result = self._job()
        except BaseException as error:
            self.error = error
        self.done.set()


class Probes:
    """Probes by name. A failed one runs again at the next request."""

    def __init__(self) -> None:
        self._probes: dict[object, _Probe] = {}

    def start(self, name: object, job: Callable[[], Any], *, later: bool = False) -> None:
        """Start `job` unless one of that name has started."""
        if name not in self._probes:
            self._probes[name] = _Probe(job, _FIRST_PROMPT_SECONDS if later else 0)

    def peek(self, name: object) -> Any:
        """The result if there is one by now, else None."""
        probe = self._probes.get(name)
        return probe.result if probe and probe.done.is_set() else None

    def is_ready(self, name: object) -> bool:
        """Whether the job has ended."""
        probe = self._probes.get(name)
        return bool(probe and probe.done.is_set())

    def result(self, name: object, job: Callable[[], T]) -> T:
        """The result of the job of that name, started here if necessary; waits for it, and raises its error."""
        self.start(name, job)
        probe = self._probes[name]
        probe.hurry()
        while not probe.done.wait(0.05):  # in slices, so that Ctrl-C gets through
            pass
        if probe.error:
            self._probes.pop(name, None)
            raise probe.error
        found: T = probe.result
        return found

    def forget(self, name: object) -> None:
        """Drop a result: the next request runs the job again."""
        self._probes.pop(name, None)

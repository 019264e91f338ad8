"""Looks at the machine and the Hub that go on while the user reads."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
# The first prompt is drawn before anything else takes the processor from it.
_FIRST_PROMPT_SECONDS = 0.35


class _Look:
    """One job, run once, in a thread that never keeps the program from ending."""

    def __init__(self, job: Callable[[], Any], seconds: float) -> None:
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self._job, self._once = job, threading.Lock()
        self._begin(seconds)

    def hurry(self) -> None:
        """Somebody waits for it: it begins now."""
        if not self._once.locked():
            self._begin(0)

    def _begin(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._run)
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
    """Looks by name. One that failed is made anew when it is asked for again."""

    def __init__(self) -> None:
        self._looks: dict[object, _Look] = {}

    def start(self, name: object, job: Callable[[], Any], *, later: bool = False) -> None:
        """Begins `job` unless one of that name has begun."""
        if name not in self._looks:
            self._looks[name] = _Look(job, _FIRST_PROMPT_SECONDS if later else 0)

    def peek(self, name: object) -> Any:
        """The result where there is one by now, else None."""
        look = self._looks.get(name)
        return look.result if look and look.done.is_set() else None

    def is_ready(self, name: object) -> bool:
        """Whether the job has ended."""
        look = self._looks.get(name)
        return bool(look and look.done.is_set())

    def result(self, name: object, job: Callable[[], T]) -> T:
        """The result of the job of that name, begun here if nobody has; waits for it, and raises what it raised."""
        self.start(name, job)
        look = self._looks[name]
        look.hurry()
        while not look.done.wait(0.05):  # in slices, so that Ctrl-C gets through
            pass
        if look.error:
            self._looks.pop(name, None)
            raise look.error
        found: T = look.result
        return found

    def forget(self, name: object) -> None:
        """The next `result` looks again."""
        self._looks.pop(name, None)

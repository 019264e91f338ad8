"""Looks at the machine and the Hub that go on while the user reads."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

# The first prompt is drawn before anything else takes the processor from it.
_FIRST_PROMPT_SECONDS = 0.35


@dataclass
class _Look:
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None

    def run(self, job: Callable[[], Any]) -> None:
        try:
            self.result = job()
        except BaseException as error:
            self.error = error
        self.done.set()


class Probes:
    """Jobs by name, each run once, in threads that never keep the program from ending."""

    def __init__(self) -> None:
        self._looks: dict[object, _Look] = {}

    def start(self, name: object, job: Callable[[], Any], *, later: bool = False) -> None:
        """Begins `job` unless one of that name has begun."""
        if name in self._looks:
            return
        look = self._looks[name] = _Look()
        thread = threading.Timer(_FIRST_PROMPT_SECONDS if later else 0, look.run, (job,))
        thread.daemon = True
        thread.start()

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
        while not look.done.wait(0.05):  # in slices, so that Ctrl-C gets through
            pass
        if look.error:
            raise look.error
        found: T = look.result
        return found

    def forget(self, name: object) -> None:
        """The next `result` looks again."""
        self._looks.pop(name, None)

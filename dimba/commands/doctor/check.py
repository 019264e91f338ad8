"""The result of one check, and a time limit for probes."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dimba.common.errors import DimbaError, printable

T = TypeVar("T")
_CLEANUP_SECONDS = 5  # for a probe to remove its container after Ctrl-C


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of output: `status` is ok, warning or error; only an error stops a job."""

    name: str
    status: str
    detail: str
    fix: str = ""


def value_or_check(name: str, seconds: float, probe: Callable[[], T], *, timeout_fix: str = "") -> T | Check:
    """The value of `probe`, or a check named `name` with the reason why it gave none within `seconds`.

    With `timeout_fix`, a timeout is an error with that fix, else a warning.
    """
    results: list[T | Check] = []
    done = threading.Event()  # after an interrupt, Python 3.11's `Thread.join` takes the thread for ended

    def run() -> None:
        results.append(_without_raising(name, probe))
        done.set()

    try:
        threading.Thread(target=run, daemon=True).start()
        done.wait(seconds)
    except KeyboardInterrupt:
        done.wait(_CLEANUP_SECONDS)
        raise
    if results:
        return results[0]
    status = "error" if timeout_fix else "warning"
    return Check(name=name, status=status, detail=f"no answer within {seconds:g} s", fix=timeout_fix)


def _without_raising(name: str, probe: Callable[[], T]) -> T | Check:
    try:
        return probe()
    except DimbaError as error:
        fix = "see `docker info`" if "`dimba doctor`" in error.hint else error.hint  # this is `dimba doctor`
        return Check(name=name, status="error", detail=error.message, fix=fix)
    except Exception as error:
        lines = printable(str(error)).splitlines() or [""]
        detail = f"the check failed: {type(error).__name__}: {lines[0][:200]}"
        return Check(name=name, status="warning", detail=detail, fix="`dimba launch` may still work")

"""One line of the doctor, and looking for no longer than is reasonable."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dimba.common.errors import DimbaError, printable

T = TypeVar("T")
_TIDY_SECONDS = 5  # for a throw-away container to be removed after a Ctrl-C


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: `status` is ok, warning or error; a warning does not stop a job."""

    name: str
    status: str
    detail: str
    fix: str = ""


def tried(name: str, seconds: float, look: Callable[[], T], *, late: str = "") -> T | Check:
    """What `look` finds, or a line that says why it found nothing; `late` is the fix where it takes too long."""
    found: list[T | Check] = []
    done = threading.Event()  # an interrupted `Thread.join` of Python 3.11 takes the thread for ended

    def find() -> None:
        found.append(_caught(name, look))
        done.set()

    try:
        threading.Thread(target=find, daemon=True).start()
        done.wait(seconds)
    except KeyboardInterrupt:
        done.wait(_TIDY_SECONDS)
        raise
    if found:
        return found[0]
    return Check(name=name, status="error" if late else "warning", detail=f"no answer within {seconds:g} s", fix=late)


def _caught(name: str, look: Callable[[], T]) -> T | Check:
    try:
        return look()
    except DimbaError as error:
        fix = "`docker info` says more" if "`dimba doctor`" in error.hint else error.hint  # that is what is asked
        return Check(name=name, status="error", detail=error.message, fix=fix)
    except Exception as error:
        said = printable(str(error)).splitlines() or [""]
        detail = f"could not be looked at: {type(error).__name__}: {said[0][:200]}"
        return Check(name=name, status="warning", detail=detail, fix="`dimba launch` tries all the same")

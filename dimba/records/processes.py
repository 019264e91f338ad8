"""Processes by a name that is not given out again: `pid:start time`."""

import os
from pathlib import Path


def start_time(pid: int) -> str:
    """Clock ticks since boot at which the process started, proc(5); empty once it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]


def myself() -> str:
    """The name of this process."""
    return f"{os.getpid()}:{start_time(os.getpid())}"


def lives(name: str | None) -> bool:
    """Whether that very process still runs; a name may go on after the start time."""
    pid, _, rest = (name or "").partition(":")
    return pid.isdecimal() and start_time(int(pid)) == rest.partition(":")[0] != ""

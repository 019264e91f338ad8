"""Names of processes that are never reused: `pid:start time`."""

import os
from pathlib import Path


def start_time(pid: int) -> str:
    """The start time of a process in clock ticks since boot, as in proc(5); empty once it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]


def own_process() -> str:
    """The name of this process."""
    return f"{os.getpid()}:{start_time(os.getpid())}"


def is_alive(name: str | None) -> bool:
    """Whether the process of this name still runs; text after the start time is ignored."""
    pid, _, rest = (name or "").partition(":")
    return pid.isdecimal() and start_time(int(pid)) == rest.partition(":")[0] != ""

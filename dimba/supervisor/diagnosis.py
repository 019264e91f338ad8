"""Why a job failed, by its status and its last lines: whatever the trainer, what runs out says so in few ways."""

import re
import signal
from pathlib import Path

_BUS_ERROR = 128 + signal.SIGBUS
_KILLED = 128 + signal.SIGKILL
_LINES = 60

# In this order: what shared memory says can look like a full disk.
_SIGNS = (
    ("shm_too_small", r"insufficient shared memory|killed by signal: Bus error|/dev/shm|shared memory.*No space left"),
    ("gpu_out_of_memory", r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"),
    ("disk_full", r"No space left on device|Disk quota exceeded"),
    ("out_of_memory", r"DefaultCPUAllocator: (?:can't|not enough)|Cannot allocate memory|^MemoryError\b"),
)
_FIRST_OF_ERROR = re.compile(
    r"^(?:\[rank\d+\]: )?((?:[\w.]+(?:Error|Exception|Interrupt|Exit)|Killed|error)\b.*)", re.MULTILINE
)
_OF_LAUNCHER = "ChildFailedError"  # torch's, after what the rank itself said


def diagnose(status: int, tail: str, *, oom_kills: int) -> tuple[str, str]:
    """(exit reason, the line that shows it) of a job that ended with `status`; `oom_kills` since it started."""
    last = "\n".join(tail.splitlines()[-_LINES:])
    for reason, pattern in _SIGNS:
        if found := re.search(f"^.*(?:{pattern}).*$", last, re.MULTILINE):
            return reason, found[0].strip()
    if status == _BUS_ERROR:
        return "shm_too_small", ""
    if status == _KILLED:
        return ("out_of_memory" if oom_kills else "killed"), ""
    errors = [line for line in _FIRST_OF_ERROR.findall(last) if _OF_LAUNCHER not in line]
    return "trainer_error", errors[-1].strip() if errors else ""


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory since it started, in control groups too."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0

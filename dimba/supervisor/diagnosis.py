"""The exit reason of a failed job, from its exit status and the last lines of its log. Works for any trainer."""

import re
import signal
from pathlib import Path

_BUS_ERROR = 128 + signal.SIGBUS
_KILLED = 128 + signal.SIGKILL
_LINES = 200  # the launcher prints a block for each of eight failed ranks below their errors

# Shared memory comes first: its messages can look like those of a full disk.
_SIGNS = (
    ("shm_too_small", r"insufficient shared memory|killed by signal: Bus error|/dev/shm|shared memory.*No space left"),
    (
        "gpu_out_of_memory",
        r"CUDA out of memory|CUDA (?:driver )?error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED"
        r"|Cuda failure 2\b|Cuda failure 'out of memory'",
    ),
    ("disk_full", r"No space left on device|Disk quota exceeded"),
    ("out_of_memory", r"DefaultCPUAllocator: (?:can't|not enough)|Cannot allocate memory|^MemoryError\b"),
)
_ERROR_LINE = re.compile(
    r"^(?:\[rank\d+\]: )?((?:[\w.]+(?:Error|Exception|Interrupt|Exit)|Killed|error)\b.*)", re.MULTILINE
)
_LAUNCHER_ERROR = "ChildFailedError"  # torch elastic prints it after the rank's own error


def diagnose(status: int, tail: str, *, oom_kills: int) -> tuple[str, str]:
    """(exit reason, the log line that shows it) of a job.

    `status` is its exit status, `tail` the end of its log, `oom_kills` the number of processes that the kernel killed
    for lack of memory while the job ran.
    """
    last = "\n".join(tail.splitlines()[-_LINES:])
    for reason, pattern in _SIGNS:
        if found := re.search(f"^.*(?:{pattern}).*$", last, re.MULTILINE):
            return reason, found[0].strip()
    if status == _BUS_ERROR:
        return "shm_too_small", ""
    if status == _KILLED:
        return ("out_of_memory" if oom_kills else "killed"), ""
    errors = [line for line in _ERROR_LINE.findall(last) if _LAUNCHER_ERROR not in line]
    return "trainer_error", errors[-1].strip() if errors else ""


def oom_kills() -> int:
    """Processes that the kernel has killed for lack of memory since the machine started, control groups included."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0

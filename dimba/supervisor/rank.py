"""One rank of the job: runs the trainer as a child and notes its pid and its exit status, also after a signal."""

import ctypes
import os
import signal
import subprocess
import sys
import time

from dimba.common.contract import ENV_WORLD_SIZE
from dimba.supervisor.rank_notes import write_note

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(argv: list[str]) -> int:
    """Runs the script `argv[0]` with the flags after it; returns its status, 128 + n after signal n."""
    if problem := _rank_count_problem():
        print(f"error: {problem}", file=sys.stderr, flush=True)
        write_note(pid=os.getpid(), status=1, time=time.monotonic())
        return 1
    die_with_parent()  # after a kill -9 no rank may write beside those of the resumed run
    child = subprocess.Popen([sys.executable, *argv], preexec_fn=die_with_parent)  # noqa: PLW1509  # no threads here
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _frame: child.send_signal(number))
    write_note(pid=os.getpid())
    code = child.wait()
    status = code if code >= 0 else 128 - code
    write_note(pid=os.getpid(), status=status, time=time.monotonic())
    return status


def _rank_count_problem() -> str:
    # `accelerate launch --cpu` silently starts one process in place of several.
    wanted, ranks = int(os.environ.get(ENV_WORLD_SIZE, "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if wanted in (0, ranks):
        return ""
    hint = "on CPUs, start accelerate with `ACCELERATE_USE_CPU=true` in place of `--cpu`"
    return f"accelerate started {ranks} of the {wanted} requested processes\n\nhint: {hint}"


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""One rank of the job: runs the trainer as a child and notes its pid and how it ended, whatever ended it."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dimba.common.contract import ENV_NODE_RANK, ENV_RANK_DIR, ENV_WORLD_SIZE

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(argv: list[str]) -> int:
    """Runs the script `argv[0]` with the flags after it; returns its status, 128 + n where signal n ended it."""
    if problem := _too_few():
        print(f"error: {problem}", file=sys.stderr, flush=True)
        _note(pid=os.getpid(), status=1, time=time.monotonic())
        return 1
    if ENV_NODE_RANK in os.environ:  # a scheduler may know nothing of sessions beside the one that it started
        die_with_parent()
    child = subprocess.Popen([sys.executable, *argv], preexec_fn=die_with_parent)  # noqa: PLW1509  # no threads here
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _frame: child.send_signal(number))
    _note(pid=os.getpid())
    code = child.wait()
    status = code if code >= 0 else 128 - code
    _note(pid=os.getpid(), status=status, time=time.monotonic())
    return status


def _too_few() -> str:
    """`accelerate launch` starts one process instead of several in some cases, and says nothing."""
    wanted, ranks = int(os.environ.get(ENV_WORLD_SIZE, "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return f"{wanted} processes were asked for, and accelerate started {ranks}" if wanted not in (0, ranks) else ""


def die_with_parent() -> None:
    """For this process, as of now."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _note(**values: float) -> None:
    folder = os.environ.get(ENV_RANK_DIR)
    if not folder:
        return
    path = Path(folder, f"{os.environ.get('RANK', '0')}.json")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values), encoding="utf-8")
    part.rename(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

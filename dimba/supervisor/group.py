"""Runs a command whose processes must not outlive the supervisor: at SIGTERM it ends all of them.

The kernel sends it that signal when the supervisor dies. vLLM's server starts processes of its own, which a kill of the
server alone would leave on the GPU.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
_POLL = 0.05


def main(argv: list[str]) -> int:
    """Runs `argv` as a group of processes; returns its status, 128 + n after signal n."""
    stops: list[float] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda _number, _frame: stops.append(time.monotonic()))
    child = subprocess.Popen(argv, start_new_session=True)
    is_told = False
    while child.poll() is None:
        if stops and not is_told:
            is_told = True
            _signal(child.pid, signal.SIGTERM)
        if stops and time.monotonic() - stops[0] > _GRACE:
            break
        time.sleep(_POLL)
    _signal(child.pid, signal.SIGKILL)  # also what the command itself left behind
    code = child.wait()
    return code if code >= 0 else 128 - code


def _signal(group: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The supervisor of a detached run waits and retries for it; the next command restarts a dead one."""

import os
import subprocess
import sys
import time
from pathlib import Path

from dimba.common.contract import ATTEND, ENV_RUNS
from dimba.common.errors import RunFailed
from dimba.records import ACTIVE, RunFolder, RunRecord
from dimba.records.locks import is_held, locks_folder

SUPERVISOR_LOG = "supervisor.log"
_POLL = 0.2


def lock_of(folder: RunFolder) -> Path:
    """The lock that a supervisor holds for its lifetime, so that a run has at most one."""
    return locks_folder() / f"supervisor-{folder.id}.lock"


def spawn_supervisor(folder: RunFolder) -> "subprocess.Popen[bytes]":
    """Starts the supervisor of a run or a sweep in its own session; its output goes to the folder."""
    path = folder.path / SUPERVISOR_LOG
    folder.touch(SUPERVISOR_LOG)
    with path.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dimba", ATTEND, folder.id],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, ENV_RUNS: str(folder.path.parent)},
            start_new_session=True,
        )


def until_started(folder: RunFolder, *, seconds: float = 60.0) -> RunRecord:
    """The record once the job runs or waits for GPUs; raises RunFailed if it did not start."""
    deadline = time.monotonic() + seconds
    record = folder.record()
    while not (record.status in ("running", "stopping") or record.waits_for) and time.monotonic() < deadline:
        time.sleep(_POLL)
        record = folder.record()
        if record.status not in ACTIVE and not is_held(lock_of(folder)):
            said = (folder.path / SUPERVISOR_LOG).read_text(encoding="utf-8", errors="replace").strip()
            raise RunFailed(f"run {folder.id} did not start:\n{said}", f"`dimba resume {folder.id}` tries again")
    return record

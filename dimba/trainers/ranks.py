"""The processes of a job: this one's place among them, and its end."""

import atexit
import os
import sys
from datetime import timedelta

from dimba.common.contract import ENV_BACKEND

# For which ranks wait for the first one, which checks and saves large models alone; NCCL's default is 10 minutes.
PATIENCE = timedelta(hours=2)


def is_main_process() -> bool:
    """Whether this process is rank 0, which prints and writes for all; a process alone is."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def backend() -> str | None:
    """The requested backend of `torch.distributed`; None for the device's own: NCCL, on a CPU gloo."""
    return os.environ.get(ENV_BACKEND)


def end_rank(status: int, *, together: bool) -> None:
    """Exit at once if this process is connected to other ranks; else do nothing.

    With `together`, all ranks end now and the connections are closed first; otherwise the others may wait elsewhere.

    Threads of these connections that still run when the interpreter shuts down sometimes abort the process after
    everything was saved; closing the connections does not always end them (gloo, under FSDP2).
    """
    torch = sys.modules.get("torch")  # a process that has not imported it has no connections
    if not (torch and torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if together:
        torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

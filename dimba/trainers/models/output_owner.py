"""Takes the output folder for this process, so that a second trainer or run does not write in it."""

import atexit
import os
from pathlib import Path

from dimba.common.contract import ENV_RUN_ID
from dimba.common.errors import BadInput
from dimba.common.owner import this_process
from dimba.common.ownership import Ownership, take
from dimba.trainers.ranks import is_main_process

_OWNED: list[Ownership] = []


def own_output(folder: Path) -> None:
    """Takes an existing folder until `leave_output`, for the run that started this trainer, or for the trainer itself.

    Raises:
        BadInput: another run or trainer writes there, or this user may not.
    """
    if not is_main_process():
        return
    try:
        run_id = os.environ.get(ENV_RUN_ID, "")
        _OWNED.append(take(folder, this_process(run_id), adopts=True, key="--output-dir"))
    except OSError as error:
        raise BadInput(
            f"{folder}: {error.strerror}", "give a folder that you may write in", key="--output-dir"
        ) from None


@atexit.register
def leave_output() -> None:
    """Gives the folder back; its launcher does that for a run."""
    while _OWNED:
        ownership = _OWNED.pop()
        if os.environ.get(ENV_RUN_ID):
            ownership.keep()
        else:
            ownership.release()

"""How a trainer ends: the one place that turns what went wrong into a message and an exit status."""

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from dimba.contract import ENV_RANK_DIR, REFUSED
from dimba.errors import DimbaError, RunFailed
from dimba.trainers.entry import WORD_FILE


def run_trainer(train: Callable[[Namespace], int], args: Namespace) -> int:
    """Calls `train`; a DimbaError becomes its message on stderr and its status, anything else keeps its traceback."""
    try:
        return train(args)
    except DimbaError as error:
        if is_first_rank():  # every rank has the same to say
            print(f"error: {error}", file=sys.stderr, flush=True)
            _note(error)
        return error.exit_status


def is_first_rank() -> bool:
    """Whether this process speaks for all of the job's, which it does alone too."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def every(seconds: float, say: Callable[[int], None]) -> Callable[[int], None]:
    """Hands on a count once in so many seconds, for what takes long."""
    said = time.monotonic()

    def count(number: int) -> None:
        nonlocal said
        if time.monotonic() - said >= seconds:
            said = time.monotonic()
            say(number)

    return count


def _note(error: DimbaError) -> None:
    # What had begun to train is no refusal.
    reason = error.reason if isinstance(error, RunFailed) else REFUSED
    if reason and (folder := os.environ.get(ENV_RANK_DIR)):
        Path(folder, WORD_FILE).write_text(json.dumps({"reason": reason, **error.as_json()}), encoding="utf-8")

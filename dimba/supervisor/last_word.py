"""A trainer's last word: word.json, with which it tells its supervisor why it refused or failed."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from dimba.common.contract import ENV_ATTEMPT_DIR, ENV_RANK_DIR, REFUSED, WORD_FILE
from dimba.common.errors import DimbaError, RunFailed

_REPORTED = "reported-"


def write_last_word(error: DimbaError) -> None:
    """Writes the error beside the ranks' notes and into the attempt's folder; the first error of a job stays."""
    reason = error.reason if isinstance(error, RunFailed) else REFUSED  # a RunFailed had begun to train
    for folder in filter(None, (os.environ.get(ENV_RANK_DIR), os.environ.get(ENV_ATTEMPT_DIR))) if reason else ():
        with suppress(OSError), Path(folder, WORD_FILE).open("x", encoding="utf-8") as file:
            json.dump({"reason": reason, **error.as_json()}, file)


def is_first_report(error: DimbaError, *, is_first_rank: bool) -> bool:
    """Whether this rank is the first to report this error; it counts as reported from then on.

    Each rank scores completions of its own, so any rank may fail alone.
    """
    folder = os.environ.get(ENV_RANK_DIR)
    if not folder:  # started without a supervisor: the ranks share no folder
        return is_first_rank or isinstance(error, RunFailed)
    digest = hashlib.sha256(str(error).encode(errors="replace")).hexdigest()
    try:
        Path(folder, f"{_REPORTED}{digest[:16]}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def has_reported_error() -> bool:
    """Whether any rank of this job has reported an error."""
    folder = os.environ.get(ENV_RANK_DIR)
    return any(Path(folder).glob(f"{_REPORTED}*")) if folder else False

"""`python -m dimba.commands.compose sft|grpo|job …`: the container's first process, replaced by the entry point."""

import os
import sys
from pathlib import Path

from dimba.commands.compose.command import execute
from dimba.commands.compose.job import job_command
from dimba.commands.compose.owner import CHECKPOINTS, become_owner
from dimba.commands.compose.script import script_command
from dimba.common.errors import BadInput, DimbaError


def main(words: list[str]) -> int:
    """Become the job's user and execute the job that `words` name; returns only for a refusal, its exit status."""
    try:
        _require_container(words)
        become_owner()
        service, *rest = words
        execute(job_command(rest) if service == "job" else script_command(service, rest))
    except DimbaError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    return 0


def _require_container(words: list[str]) -> None:
    if not words or "HF_HOME" not in os.environ or not Path(CHECKPOINTS).is_dir():
        hint = "run `docker compose run --rm sft --help` in dimba's repository; elsewhere, `dimba launch SPEC`"
        raise BadInput("this is the first process of a service of compose.yaml, and runs only in its container", hint)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

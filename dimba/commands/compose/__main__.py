"""`python -m dimba.commands.compose sft|grpo|job …`: the container's first process, replaced by the entry point."""

import sys

from dimba.commands.compose.command import execute
from dimba.commands.compose.job import job_command
from dimba.commands.compose.owner import become_owner
from dimba.commands.compose.script import script_command
from dimba.common.errors import DimbaError


def main(words: list[str]) -> int:
    """Become the job's user and execute the job that `words` name; returns only for a refusal, its exit status."""
    try:
        become_owner()
        service, *rest = words
        execute(job_command(rest) if service == "job" else script_command(service, rest))
    except DimbaError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

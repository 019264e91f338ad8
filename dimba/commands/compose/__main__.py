"""`python -m dimba.commands.compose sft|grpo|job …`: the container's first process, replaced by the entry point."""

import sys

from dimba.commands.compose.job import job
from dimba.commands.compose.owner import become_owner
from dimba.commands.compose.script import script
from dimba.commands.compose.start import start
from dimba.common.errors import DimbaError


def main(words: list[str]) -> int:
    """Become the job's user and start what `words` name; returns the exit status of a refusal."""
    try:
        become_owner()
        what, *rest = words
        start(job(rest) if what == "job" else script(what, rest))
    except DimbaError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m dimba.compose sft|grpo|job …`: the container's first process, which the entry point then takes over."""

import sys

from dimba.compose.job import job
from dimba.compose.owner import become_owner
from dimba.compose.script import script
from dimba.compose.start import start
from dimba.errors import DimbaError


def main(words: list[str]) -> int:
    """Returns only where nothing starts: with the exit status of what is in the way."""
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

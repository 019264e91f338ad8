"""One check in a process of its own: `python -m scripts.gpu.checks PART CHECK FOLDER DEVICE [--tiny]`."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from scripts.gpu.context import Context
from scripts.gpu.parts import function_of
from scripts.gpu.results import write


def main() -> int:
    """Run one check and write its results as they come; an exception ends it with a traceback in its log."""
    part, check, folder, device, *more = sys.argv[1:]
    context = Context(part, check, Path(folder), device, "--tiny" in more)
    started = time.monotonic()
    for each in function_of(part, check)(context):
        now = time.monotonic()
        write(context.folder, replace(each, seconds=now - started))
        started = now
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The checks of one part, each run as `python -m scripts.gpu.checks PART CHECK FOLDER DEVICE [--tiny]`."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.gpu.results import Result, write

Found = Iterator[Result]


@dataclass(frozen=True)
class Context:
    """Where a check runs: the folder of its files, the device, and whether the models are tiny."""

    part: str
    check: str
    folder: Path
    device: str
    tiny: bool

    def result(self, case: str, outcome: str, detail: str = "", **measured: object) -> Result:
        """A result of this check."""
        return Result(
            part=self.part, check=self.check, case=case, outcome=outcome, detail=detail, measured=dict(measured)
        )


def main() -> int:
    """Run one check and write its results as they come; an exception ends it with a traceback in its log."""
    part, check, folder, device, *more = sys.argv[1:]
    context = Context(part, check, Path(folder), device, "--tiny" in more)
    started = time.monotonic()
    for each in _checks()[check](context):
        now = time.monotonic()
        write(context.folder, replace(each, seconds=now - started))
        started = now
    return 0


def _checks() -> dict[str, Callable[[Context], Found]]:
    from scripts.gpu import correct  # its libraries take seconds

    return {name: getattr(correct, name) for name in ("attention", "memory", "sft", "dpo", "grpo", "stop")}


if __name__ == "__main__":
    sys.exit(main())

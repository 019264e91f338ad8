"""Whether the memory estimate holds: what runs on a GPU measure, against what `dimba plan` estimates."""

import subprocess
import sys
import time
from statistics import median

from scripts.gpu.context import Context, Found
from scripts.gpu.results import ABSENT, FAILED, RIGHT, Result, read, write

_SECONDS = 420.0  # in which cases begin; a started one ends within the limit of the check


def estimate(context: Context) -> Found:
    """Two steps of each combination of model, method, rows and checkpointing, then the terms that would fit best.

    A process measures one case after another; one that crashes takes its case with it, and another one continues.
    """
    from scripts.gpu.memory_run import cases_of  # its libraries take seconds

    until, cases = time.time() + _SECONDS, cases_of(context)
    while (done := len(_written(context))) < len(cases):
        status = subprocess.run(_command(context, done, until), check=False).returncode
        if status and (broken := cases[len(_written(context)) :]):
            write(context.folder, context.result(broken[0].name, FAILED, f"exit status {status}"))
    yield fitted(context, _written(context))


def _command(context: Context, first: int, until: float) -> list[str]:
    tiny = ["--tiny"] if context.tiny else []
    where = [context.part, context.check, str(context.folder), context.device]
    return [sys.executable, "-m", "scripts.gpu.memory_run", str(first), str(until), *where, *tiny]


def _written(context: Context) -> list[Result]:
    return [each for each in read(context.folder) if (each.part, each.check) == (context.part, context.check)]


def fitted(context: Context, results: list[Result]) -> Result:
    """The values of `dimba/plan/states.py` and `dimba/plan/memory.py` that the measurements give."""
    measured = [each.measured for each in results if "context" in each.measured]
    if not measured:
        return context.result("fitted", ABSENT, "nothing was measured on a GPU")
    ratios = [each["ratio"] for each in measured]
    return context.result(
        "fitted",
        RIGHT,
        "`_CONTEXT` in MiB, `_FRAGMENTED` as a share",
        _CONTEXT=max(each["context"] for each in measured),
        _FRAGMENTED=median(each["fragmented"] for each in measured),
        formula=median(each["formula"] for each in measured),
        least=min(ratios),
        most=max(ratios),
    )

"""Whether the memory estimate holds: what runs on a GPU measure, against what `dimba plan` estimates."""

import subprocess
import sys
import time
from statistics import median

from scripts.gpu.context import Context, Found
from scripts.gpu.results import ABSENT, FAILED, RIGHT, Result, write

_SECONDS = 420.0  # in which cases begin; a started one ends within the limit of the check


def estimate(context: Context) -> Found:
    """Two steps of each combination of model, method, rows and checkpointing, then the terms that would fit best.

    A process measures one case after another; one that crashes takes its case with it, and another one continues.
    """
    from scripts.gpu.memory_run import cases_of  # its libraries take seconds

    names, until = [case.name for case in cases_of(context)], time.time() + _SECONDS
    while (left := _left(context, names)) and time.time() < until:
        status = subprocess.run(_command(context, until), check=False).returncode
        if status and (broken := _left(context, names)):
            write(context.folder, context.result(broken[0], FAILED, f"exit status {status}"))
    for name in left:
        yield context.result(name, ABSENT, "no time was left")
    yield fitted(context, context.answers())


def _command(context: Context, until: float) -> list[str]:
    tiny = ["--tiny"] if context.tiny else []
    where = [context.part, context.check, str(context.folder), context.device]
    return [sys.executable, "-m", "scripts.gpu.memory_run", str(until), *where, *tiny]


def _left(context: Context, names: list[str]) -> list[str]:
    done = {each.case for each in context.answers()}
    return [name for name in names if name not in done]


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

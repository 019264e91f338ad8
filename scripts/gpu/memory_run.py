"""Measures combinations: `python -m scripts.gpu.memory_run UNTIL PART CHECK FOLDER DEVICE [--tiny]`."""

import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from dimba.common.errors import RunFailed
from dimba.plan.model import MemoryEstimate
from dimba.trainers.kernels.allocator import grow_segments
from scripts.bench.memory import compared, model_of
from scripts.gpu.context import Context
from scripts.gpu.memory_cases import CASES, TINY_CASES, GpuCase, estimate_of
from scripts.gpu.memory_jobs import free_memory, losses_of
from scripts.gpu.results import RIGHT, WRONG, Result, write

_MIB = 1 << 20
LEAST, MOST = 0.95, 1.10  # of the measured bytes
_TOO_LARGE = "gpu_out_of_memory"


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of a job: reserved by torch, in tensors, and of this process on the device beside these."""

    reserved: int
    allocated: int
    context: int


def main() -> int:
    """Measure the cases that have no result yet, none that would begin after the time UNTIL; writes each result."""
    until, part, check, folder, device = sys.argv[1:6]
    context = Context(part, check, Path(folder), device, "--tiny" in sys.argv)
    before = _used_on_device() if device == "cuda" else 0
    if device == "cuda":
        grow_segments()  # as every job does
    done = {each.case for each in context.answers()}
    for case in cases_of(context):
        if case.name in done or time.time() > float(until):
            continue
        started = time.monotonic()
        result = _traced(case, context) if device == "cpu" else _measured(case, context, before)
        write(context.folder, Result(**{**vars(result), "seconds": time.monotonic() - started}))
    return 0


def cases_of(context: Context) -> tuple[GpuCase, ...]:
    """The cases of a run."""
    return TINY_CASES if context.tiny else CASES


def _measured(case: GpuCase, context: Context, before: int) -> Result:
    """A job on the GPU against its estimate."""
    facts, room = model_of(case)[1], _room()
    losses, longest, problem = _trained(case, context)
    estimate = estimate_of(case, facts, longest or case.length)
    numbers = {"estimated": _mib(estimate.total), "room": _mib(room)}
    if problem:
        expected = estimate.total - estimate.context > room  # this process has its context already
        return context.result(case.name, RIGHT if expected else WRONG, f"does not fit: {problem}", **numbers)
    peak = _peak(before)
    ratio = estimate.total / (peak.reserved + peak.context)
    upper = "" if case.attention == "sdpa" else "an upper bound: no mask"
    right = ratio >= LEAST and (ratio <= MOST or bool(upper)) and all(map(math.isfinite, losses))
    return context.result(case.name, RIGHT if right else WRONG, upper, ratio=ratio, **numbers, **_terms(estimate, peak))


def _terms(estimate: MemoryEstimate, peak: Peak) -> dict[str, object]:
    """What the terms of the estimate would be by this measurement."""
    formula = estimate.total - estimate.context - estimate.fragments
    return {
        "reserved": _mib(peak.reserved),
        "allocated": _mib(peak.allocated),
        "context": _mib(peak.context),
        "formula": formula / peak.allocated,
        "fragmented": (peak.reserved - peak.allocated) / max(1, estimate.transient),
        "peak": estimate.peak,
    }


def _mib(count: float) -> int:
    return round(count / _MIB)


def _trained(case: GpuCase, context: Context) -> tuple[list[float], int, str]:
    """(the losses, the tokens of the longest row, why it does not fit); the memory is free again after it failed."""
    try:
        losses, longest = losses_of(case, context)
        return losses, longest, ""
    except (torch.OutOfMemoryError, RunFailed) as error:
        if getattr(error, "reason", _TOO_LARGE) != _TOO_LARGE:
            raise
        return [], 0, str(error).strip().splitlines()[0]
    finally:
        shutil.rmtree(context.folder / "memory", ignore_errors=True)


def _room() -> int:
    """Bytes that are free on the GPU, or that this process can free."""
    free_memory()
    return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())


def _peak(before: int) -> Peak:
    """The peak since the last reset; other processes used `before` bytes when this one began."""
    free, total = torch.cuda.mem_get_info()
    return Peak(
        reserved=torch.cuda.max_memory_reserved(),
        allocated=torch.cuda.max_memory_allocated(),
        context=max(0, total - free - torch.cuda.memory_reserved() - before),
    )


def _used_on_device() -> int:
    """Bytes in use on the first GPU before this process uses it; 0 without `nvidia-smi`."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return int(float(found.stdout.split()[0])) * _MIB
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return 0


def _traced(case: GpuCase, context: Context) -> Result:
    """The same job on the CPU, and the estimate against a trace of its step with fake tensors."""
    losses, _, problem = _trained(case, context)
    estimated, live, _ = compared(case)
    ratio = estimated / live.peak
    right = not problem and losses and all(map(math.isfinite, losses))
    right = right and LEAST <= ratio <= MOST
    return context.result(case.name, RIGHT if right else WRONG, problem, traced_ratio=ratio)


if __name__ == "__main__":
    sys.exit(main())

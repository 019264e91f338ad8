"""What a full GPU does to a run: it recomputes activations where that helps, else it ends with a message."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from unittest.mock import patch

import torch

from dimba.common.contract import ENV_ATTEMPT_DIR, WORD_FILE
from dimba.supervisor.diagnosis import diagnose
from dimba.trainers.models import memory
from scripts.gpu.context import Context, Found
from scripts.gpu.jobs import distance, learning, losses, metrics, rows, train
from scripts.gpu.results import FAILED, RIGHT, WRONG, Result

_REASON = "gpu_out_of_memory"
_FALLS_BACK = "GPU: activation checkpointing of"
_MOST = 1e-3  # of the losses of a run that recomputes from its start
_LEAST = 1.2  # the memory with activations, in that without them: less leaves no room for a limit between


def recompute(context: Context) -> Found:
    """A run whose activations do not fit switches to recomputing them, and has the losses of one that always does."""
    names = ("on", "off" if context.device == "cuda" else "on")  # a CPU is not metered
    statuses = [_run(context, name)[0] for name in dict.fromkeys(names)]
    if any(statuses):
        yield context.result("without a limit", FAILED, f"exit status {max(statuses)}")
        return
    least, most = _peak(context, names[0], "peak_memory_bytes"), _peak(context, names[1], "peak_allocated_bytes")
    if context.device == "cuda" and most < _LEAST * least:
        yield context.result("without a limit", FAILED, "activations take too little", on=least, off=most)
        return
    with _limited(context, (least + most) // 2):
        status, log = _run(context, "auto")
    yield _fallen_back(context, status, log)


def _run(context: Context, kind: str) -> tuple[int, str]:
    """(exit status, output) of a run with `--activation-checkpointing KIND`."""
    shape = ("--batch-size", "1" if context.tiny else "16", "--max-length", "2048")
    more = ("--activation-checkpointing", kind, "--dataset", str(rows(context, "long")), *shape)
    precision = "bf16" if context.device == "cuda" else "no"
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = train(context, "sft", context.folder / f"recompute-{kind}", *more, precision=precision)
    print(output.getvalue())
    return status, output.getvalue()


def _peak(context: Context, kind: str, key: str) -> int:
    """The memory of a run in bytes, reserved or in tensors; 0 on a CPU, which is not metered."""
    return max((line[key] for line in metrics(context.folder / f"recompute-{kind}") if key in line), default=0)


def _fallen_back(context: Context, status: int, log: str) -> Result:
    case, out = "falls back", context.folder / "recompute-auto"
    if status:
        return context.result(case, FAILED, f"exit status {status}")
    away = distance(losses(out), losses(context.folder / "recompute-on"))
    is_right = _FALLS_BACK in log and away <= _MOST and learning(out)["saved_model"] == "equal"
    printed = next((line for line in log.splitlines() if _FALLS_BACK in line), "its line is missing")
    return context.result(case, RIGHT if is_right else WRONG, printed, away=away)


def out_of_memory(context: Context) -> Found:
    """A step that does not fit ends the run with a message, exit status 1 and its exit reason."""
    folder = context.folder / "out-of-memory-attempt"
    folder.mkdir(exist_ok=True)
    (folder / WORD_FILE).unlink(missing_ok=True)
    os.environ[ENV_ATTEMPT_DIR] = str(folder)
    out, shape = context.folder / "out-of-memory", ("--batch-size", "64", "--max-length", "2048")
    more = ("--activation-checkpointing", "auto", "--dataset", str(rows(context, "long")), *shape)
    with _limited(context, 1 << 30, fits_nothing=True), contextlib.redirect_stderr(io.StringIO()) as output:
        status = train(context, "sft", out, *more, precision="bf16" if context.device == "cuda" else "no")
    print(output.getvalue())
    word = json.loads((folder / WORD_FILE).read_text(encoding="utf-8")) if (folder / WORD_FILE).exists() else {}
    message = next((line for line in output.getvalue().splitlines() if line.startswith("error: ")), "no message")
    is_right = status == 1 and word.get("reason") == _REASON and "hint: " in output.getvalue()
    yield context.result("a step", RIGHT if is_right else WRONG, f"exit status {status}, {message[:150]}")
    if context.device == "cuda":
        yield _diagnosed(context)


def _diagnosed(context: Context) -> Result:
    """What CUDA says when memory ends elsewhere than in the first step, as the supervisor understands it."""
    try:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        found, line = diagnose(1, f"torch.OutOfMemoryError: {error}", oom_kills=0)
        return context.result("words", RIGHT if found == _REASON else WRONG, line[:150])
    return context.result("words", WRONG, "a petabyte was allocated")


@dataclass(frozen=True)
class _FullMeter:
    """Stands for a GPU that is full, on a CPU."""

    def total(self) -> int:
        return 1

    def available(self) -> int:
        return 1

    def peak(self) -> tuple[int, int]:
        return 1, 1

    def reset_peak(self) -> None:
        pass


@contextlib.contextmanager
def _limited(context: Context, size: int, *, fits_nothing: bool = False) -> Iterator[None]:
    """Leaves this process `size` bytes of the GPU; on a CPU it simulates a full one."""
    if context.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(size / total, 1.0))
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
        return
    error = torch.OutOfMemoryError("CUDA out of memory, simulated")
    with contextlib.ExitStack() as patches:
        patches.enter_context(patch.object(memory, "meter_of", lambda _: _FullMeter()))
        if fits_nothing:
            patches.enter_context(patch.object(memory, "run_probe", side_effect=error))
        yield

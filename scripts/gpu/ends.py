"""How a run on the device ends before its end: signals, and a batch that does not fit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from dimba.common.checkpoints import complete_checkpoints
from dimba.common.contract import EXIT_STOPPED
from scripts.gpu.context import Context, Found
from scripts.gpu.jobs import flags, train
from scripts.gpu.results import ABSENT, RIGHT, WRONG, Result

_HUGE = ("--batch-size", "4096", "--max-length", "2048", "--grad-accumulation-steps", "1")


def stop(context: Context) -> Found:
    """SIGINT and SIGTERM during a run save a checkpoint, from which it goes to its end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        yield _stopped(context, number)


def _stopped(context: Context, number: signal.Signals) -> Result:
    out, more = context.folder / f"stop-{number.name}", ("--device", context.device, "--max-steps", "2000")
    script = Path(__file__).parents[1] / "finetuning" / "finetune_sft.py"
    command = [sys.executable, str(script), *flags(context, "sft", out, *more)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        assert job.stdout, "it is a pipe"
        for line in job.stdout:
            if line.startswith("step "):
                break
        asked = time.monotonic()
        job.send_signal(number)
        job.stdout.read()
        status = job.wait()
    seconds, saved = time.monotonic() - asked, complete_checkpoints(out)
    right = status == EXIT_STOPPED and bool(saved)
    name = saved[0].name if saved else "no checkpoint"
    return context.result(number.name, RIGHT if right else WRONG, f"exit status {status}, {name}", stopped_in=seconds)


def out_of_memory(context: Context) -> Found:
    """A batch that no GPU holds ends with a refusal."""
    if context.device != "cuda":
        yield context.result("all", ABSENT, "needs a GPU")
        return
    status = train(context, "sft", context.folder / "out-of-memory", *_HUGE, "--device", "cuda", "--packing", "off")
    right = status not in (0, 1)
    yield context.result("too large a batch", RIGHT if right else WRONG, f"exit status {status}")

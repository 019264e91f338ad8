"""How a signal ends a run on the device."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from dimba.common.checkpoints import complete_checkpoints
from dimba.common.contract import EXIT_STOPPED
from scripts.gpu.context import Context, Found
from scripts.gpu.jobs import flags, script
from scripts.gpu.results import RIGHT, WRONG, Result


def stop(context: Context) -> Found:
    """SIGINT and SIGTERM during a run save a checkpoint, from which it goes to its end."""
    with ThreadPoolExecutor() as both:  # most of their time is the start
        yield from both.map(partial(_stopped, context), (signal.SIGINT, signal.SIGTERM))


def _stopped(context: Context, number: signal.Signals) -> Result:
    out = context.folder / f"stop-{number.name}"
    command = [sys.executable, script("sft"), *flags(context, "sft", out, "--max-steps", "2000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        assert job.stdout, "it is a pipe"
        for line in job.stdout:
            print(line, end="")
            if line.startswith("step "):
                break
        asked = time.monotonic()
        job.send_signal(number)
        print(job.stdout.read(), flush=True)
        status = job.wait()
    seconds, saved = time.monotonic() - asked, complete_checkpoints(out)
    right = status == EXIT_STOPPED and bool(saved)
    name = saved[0].name if saved else "no checkpoint"
    return context.result(number.name, RIGHT if right else WRONG, f"exit status {status}, {name}", stopped_in=seconds)

"""A training process, observed from outside: the times of its losses, its CPU time and its memory."""

import ast
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SILENT = {"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1"}  # no telemetry about benchmarks
_LINE = re.compile(r"\{'(?:loss|train_runtime)'.*?\}")


@dataclass(frozen=True)
class Run:
    """One run of one trainer."""

    first: float  # seconds from the command to the loss of the first step
    steps: tuple[tuple[float, float], ...]  # seconds since that loss, loss
    cpu: float  # CPU seconds from that loss to the last one
    peak: int  # bytes, of the largest process

    @property
    def seconds(self) -> float:
        """Seconds of all steps, with the mean of the others in place of the first."""
        return self.steps[-1][0] * len(self.steps) / (len(self.steps) - 1)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all steps, with the mean of the others in place of the first."""
        return self.cpu * len(self.steps) / (len(self.steps) - 1)


def run(argv: Sequence[str], *, folder: Path, threads: int, metrics: str | None = None) -> Run:
    """Run `argv` in `folder`, with its output in log.txt there, and observe its losses.

    The losses are read from the file below `folder` that matches `metrics`, else from stdout, as transformers prints
    them.

    Raises:
        SystemExit: it failed; the message has the end of its output.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", **_SILENT}
    log = folder / "log.txt"
    began = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(argv, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment)
    seen: list[tuple[float, float, float]] = []  # (seconds, loss, CPU seconds so far)
    while (status := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        if new := _losses(next(folder.glob(metrics), log) if metrics else log)[len(seen) :]:
            seen += [(time.perf_counter() - began, loss, _cpu(process.pid)) for loss in new]
        time.sleep(0.02)
    peak = os.wait4(process.pid, 0)[2].ru_maxrss << 10
    if status.si_status or len(seen) < 2:
        raise SystemExit(f"{argv[0]} failed:\n{log.read_text(errors='replace')[-2000:]}")
    first = seen[0]
    steps = tuple((when - first[0], loss) for when, loss, _ in seen)
    return Run(first[0], steps, seen[-1][2] - first[2], peak)


def _losses(path: Path) -> list[float]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if path.suffix == ".jsonl":
        return [float(value) for value in re.findall(r'"loss": ([\d.]+)', text)]
    return [float(each["loss"]) for each in map(ast.literal_eval, _LINE.findall(text)) if "loss" in each]


def _cpu(pid: int) -> float:
    """CPU seconds of a process and its living descendants."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK") + sum(_cpu(int(c)) for c in children)

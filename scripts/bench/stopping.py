"""Steps and seconds from `dimba stop` to a complete checkpoint.

PYTHONPATH=. python scripts/bench/stopping.py
"""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dimba.common.checkpoints import newest_checkpoint, step_of
from dimba.trainers.tiny import make_checkpoint
from tests.kills import write_job

ROUNDS, STEPS_BEFORE = 5, 6


def main() -> None:
    """Print for each round: steps after the signal, seconds until saved, seconds of a step and of a save."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name, "base")
        make_checkpoint(base, [f"Count to {n}" for n in range(60)])
        rounds = [stopped(write_job(Path(name, str(n)), base, steps=100_000)) for n in range(ROUNDS)]
    for found in rounds:
        print(json.dumps(found))
    print(json.dumps({"median": {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}}))


def stopped(folder: Path) -> dict[str, float]:
    """Measure one job that is stopped between steps and saves only then."""
    words = ["launch", "job.yaml", "--set", "trainer_args.save-steps=1000000", "--set", "training.batch_size=32"]
    words += ["--set", "training.grad_accumulation_steps=16"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "dimba", *words]
    launcher = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while (metrics := steps(folder)) is None or len(metrics) < STEPS_BEFORE:
        if launcher.poll() is not None:
            raise SystemExit(launcher.stderr.read().decode() if launcher.stderr else "it failed")
        time.sleep(0.01)
    step = statistics.median(b["elapsed"] - a["elapsed"] for a, b in itertools.pairwise(metrics))
    at, signalled = metrics[-1]["step"], time.time()
    launcher.send_signal(signal.SIGTERM)
    while (saved := newest_checkpoint(folder / "out")) is None:
        time.sleep(0.002)
    took = time.time() - signalled
    launcher.wait()
    began = min(path.stat().st_mtime for path in saved.iterdir())
    save = max(path.stat().st_mtime for path in saved.iterdir()) - began
    return {"steps": step_of(saved) - at, "to saved": round(took, 3), "step": round(step, 3), "save": round(save, 3)}


def steps(folder: Path) -> list[dict[str, float]] | None:
    """The metrics of all steps so far; None before the first."""
    files = list(folder.glob("runs/*/attempts/1/metrics.jsonl"))
    lines = files[0].read_text(encoding="utf-8").splitlines(keepends=True) if files else []
    return [json.loads(line) for line in lines if line.endswith("\n")] or None


if __name__ == "__main__":
    main()

"""How busy a sweep keeps two pretend GPUs: a grid of 8 trainings of the tiny model, one GPU each, in containers.

A GPU is busy while a container runs on it, by the engine's clock; the time counts from the first start to the last end.

PYTHONPATH=. python scripts/bench/sweep.py [STEPS]
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from dimba.common.contract import LABEL_GPUS
from dimba.runners.docker.engine import Engine, connect
from tests.conftest import QUESTIONS, REPOSITORY, write_rows
from tests.queueing import ended_container, timestamp

_STEPS = 30
_AXES = ("training.learning_rate=1e-4,2e-4,5e-4,1e-3", "lora.r=4,8")
_SPEC = """\
version: 1
mode: sft
base_checkpoint: base
dataset: {{path: data.jsonl}}
method: lora
training: {{batch_size: 4, grad_accumulation_steps: 2, max_steps: {steps}, max_length: 128}}
output_dir: out
trainer_args: {{validation-split: 0.1, eval-steps: 50}}
resources: {{gpus: 1}}
container: {{env: [OMP_NUM_THREADS=1]}}
runner: docker
"""

Interval = tuple[float, float]


def main() -> None:
    """Print the share of the time in which each GPU is busy, the gaps in seconds, and the lengths of the trainings."""
    engine = connect()
    if not isinstance(engine, Engine):
        raise SystemExit(engine.problem)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else _STEPS
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measured(engine, Path(name), steps)))


def measured(engine: Engine, folder: Path, steps: int) -> dict[str, Any]:
    """The result of one sweep in `folder`."""
    used: dict[str, list[Interval]] = {}
    for run in launched(folder, steps):
        container = ended_container(engine, run)
        times = (timestamp(container["State"]["StartedAt"]), timestamp(container["State"]["FinishedAt"]))
        used.setdefault(container["Config"]["Labels"][LABEL_GPUS], []).append(times)
    every = [each for times in used.values() for each in times]
    wall = max(end for _, end in every) - min(start for start, _ in every)
    busy = {gpu: round(sum(end - start for start, end in times) / wall, 3) for gpu, times in used.items()}
    gaps = [round(after[0] - before[1], 2) for times in used.values() for before, after in pairwise(sorted(times))]
    lengths = [round(end - start, 1) for start, end in every]
    return {"busy": busy, "gaps": gaps, "trainings": lengths, "wall": round(wall, 1), "load": os.getloadavg()[0]}


def launched(folder: Path, steps: int) -> list[str]:
    """The ids of the runs of a sweep that has ended."""
    from dimba.trainers.tiny import make_checkpoint

    make_checkpoint(folder / "base", [text for row in QUESTIONS for text in row.values()])
    write_rows(folder / "data.jsonl", QUESTIONS * 20)
    (folder / "job.yaml").write_text(_SPEC.format(steps=steps), encoding="utf-8")
    axes = [word for axis in _AXES for word in ("--sweep", axis)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dimba",
            "launch",
            "job.yaml",
            "--allow-cpu",
            "--trust-spec",
            "--set",
            "name=bench",
            *axes,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DIMBA_LEASES": str(folder / "leases")},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    return [path.parent.name for path in sorted((folder / "runs").glob("*/run.json"))]


if __name__ == "__main__":
    main()

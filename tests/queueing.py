"""Measures how long a GPU is idle between two jobs in containers that wait for it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from dimba.common.contract import LABEL_GPUS, LABEL_RUN_ID
from dimba.runners.docker.engine import Engine
from tests.conftest import QUESTIONS, REPOSITORY, hollow_checkpoint, write_rows

TRAINER = """\
import argparse, time
parser = argparse.ArgumentParser()
for flag in ("--model", "--dataset", "--output-dir"):
    parser.add_argument(flag)
parser.parse_args()
time.sleep(1)
"""
SPEC = """\
version: 1
mode: sft
base_checkpoint: base
dataset: {path: data.jsonl}
method: full
trainer: trainer.py
resources: {gpus: 1}
runner: docker
"""
PATIENCE = 300.0  # seconds


def idle_seconds(engine: Engine, folder: Path, jobs: int = 4) -> dict[str, list[float]]:
    """The idle seconds of each GPU: from the end of a container to the start of the next one that had it."""
    hollow_checkpoint(folder / "base")
    write_rows(folder / "data.jsonl", QUESTIONS)
    (folder / "trainer.py").write_text(TRAINER, encoding="utf-8")
    (folder / "job.yaml").write_text(SPEC, encoding="utf-8")
    runs = [launch(folder, number) for number in range(jobs)]
    used: dict[str, list[tuple[float, float]]] = {}
    for container in (ended_container(engine, run) for run in runs):
        state, gpu = container["State"], container["Config"]["Labels"][LABEL_GPUS]
        assert state["ExitCode"] == 0, state
        used.setdefault(gpu, []).append((timestamp(state["StartedAt"]), timestamp(state["FinishedAt"])))
    return {gpu: list(gaps(times)) for gpu, times in used.items()}


def launch(folder: Path, number: int) -> str:
    command = [sys.executable, "-m", "dimba", "launch", "job.yaml", "--detach", "--allow-cpu", "--trust-spec"]
    done = subprocess.run(
        [*command, "--set", f"output_dir=out-{number}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DIMBA_LEASES": str(folder / "leases")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def ended_container(engine: Engine, run: str) -> dict[str, Any]:
    """The engine's description of a run's ended container, which is then removed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = engine.api.containers(all=True, filters={"label": f"{LABEL_RUN_ID}={run}", "status": "exited"})
        if found:
            container = dict(engine.api.inspect_container(found[0]["Id"]))
            engine.api.remove_container(container["Id"])
            return container
        assert time.monotonic() < deadline, f"{run} has not ended"
        time.sleep(0.2)


def timestamp(text: str) -> float:
    """Seconds since 1970 of an engine's time, which has nine digits after the point."""
    return datetime.fromisoformat(f"{text[:26].rstrip('Z'):0<26}+00:00").timestamp()


def gaps(times: list[tuple[float, float]]) -> Iterator[float]:
    for (_, end), (begin, _) in pairwise(sorted(times)):
        yield round(begin - end, 2)

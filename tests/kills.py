"""Kills a run at random moments and resumes it, for a test with a few kills and a soak with many."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from dimba.common.contract import ACTIVE
from tests.conftest import REPOSITORY

SPEC = """\
version: 1
name: killed
mode: sft
base_checkpoint: {base}
dataset: {{path: data.jsonl}}
method: full
training: {{batch_size: 4, grad_accumulation_steps: 1, max_steps: {steps}, learning_rate: 1.0e-3, max_length: 64}}
trainer_args: {{save-steps: 3, save-total-limit: 2}}
output_dir: out
resources: {{gpus: none}}
runner: process
"""


def write_job(folder: Path, base: Path, *, steps: int) -> Path:
    """Writes a job with quick steps that saves every third one."""
    folder.mkdir(parents=True)
    chats = [{"prompt": f"Count to {n}", "response": f"{n}."} for n in range(60)]
    (folder / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in chats), encoding="utf-8")
    (folder / "job.yaml").write_text(SPEC.format(base=base, steps=steps), encoding="utf-8")
    return folder


def dimba(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "dimba", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def record(folder: Path) -> dict:
    """The record of the only run, reconciled with its processes."""
    listed: list[dict] = json.loads(dimba(folder, "ps", "-a", "--json").stdout)
    return listed[-1]


def tree(pid: int) -> list[int]:
    """A process and all its descendants, children after parents."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in tree(int(child)))]


def kill_all(folder: Path) -> None:
    """Sends SIGKILL to every process of the run's newest attempt."""
    job = record(folder)["attempts"][-1]["job"]
    for pid in tree(int(job.partition(":")[0])):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def metrics_of(folder: Path, run: dict) -> Path:
    """The metrics.jsonl of the run's newest attempt."""
    return folder / "runs" / run["id"] / "attempts" / str(len(run["attempts"])) / "metrics.jsonl"


def measure(quiet: Path) -> tuple[float, float]:
    """(seconds before the first step, seconds of training) of an undisturbed run."""
    run = record(quiet)
    started, ended = (datetime.fromisoformat(run["attempts"][-1][each]) for each in ("started", "ended"))
    training = json.loads(metrics_of(quiet, run).read_text(encoding="utf-8").splitlines()[-1])["elapsed"]
    return (ended - started).total_seconds() - training, training


def wait_for_step(folder: Path) -> None:
    """Waits until the newest attempt trains or has ended."""
    while (run := record(folder))["status"] in ACTIVE:
        metrics = metrics_of(folder, run)
        if metrics.exists() and metrics.stat().st_size:
            return
        time.sleep(0.1)


def kill_often(folder: Path, kills: int, seed: int, quiet: Path) -> int:
    """Launches the job and kills it up to `kills` times, before or during training; resumes it after each kill.

    The moments depend on the times of `quiet`, the same job undisturbed, so that on any machine some steps are left
    after the last kill. Returns the number of kills that hit a running job.
    """
    chance, hit = random.Random(seed), 0
    start, training = measure(quiet)
    started = dimba(folder, "launch", "job.yaml", "--detach")
    assert started.returncode == 0, started.stderr
    for _ in range(kills):
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, start))
        else:
            wait_for_step(folder)
            time.sleep(chance.uniform(0, training / kills))
        kill_all(folder)
        found = record(folder)
        if found["status"] == "succeeded":
            return hit
        hit += 1
        assert found["status"] in ("lost", "failed"), found
        resumed = dimba(folder, "resume", found["id"], "--detach")
        assert resumed.returncode == 0, resumed.stderr
    while record(folder)["status"] in ACTIVE:
        time.sleep(0.5)
    return hit


def weights(folder: Path) -> bytes:
    """The trained weights, byte for byte."""
    return (folder / "out" / "model.safetensors").read_bytes()

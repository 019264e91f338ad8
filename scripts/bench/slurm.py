"""Time to the first step on a real Slurm: two processes on one node against one on each of two nodes.

python scripts/bench/slurm.py [--rounds 3]
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

SPEC = """\
version: 1
mode: sft
base_checkpoint: base
dataset: {path: data.jsonl}
method: lora
training: {batch_size: 2, grad_accumulation_steps: 1, max_steps: 1, max_length: 64}
accelerate: {mixed_precision: "no"}
runner: slurm
"""
PLACES = {"one node": {"nodes": 1, "gpus": 2}, "two nodes": {"nodes": 2, "gpus": 1}}


def main() -> None:
    """Print the medians and their difference, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_job(folder)
        took: dict[str, list[float]] = {place: [] for place in PLACES}
        for number in range(rounds):
            for place, resources in PLACES.items():
                took[place].append(first_step(folder, f"{place}-{number}".replace(" ", "-"), resources))
    for place, seconds in took.items():
        print(
            f"{place}: first step {statistics.median(seconds):.1f} s after the job began, median of {rounds}: {seconds}"
        )
    one, two = (statistics.median(took[place]) for place in PLACES)
    print(f"two nodes over one: {two - one:+.1f} s")


def make_job(folder: Path) -> None:
    """Write a job of one step on a tiny model."""
    from dimba.trainers.tiny import make_checkpoint

    rows = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}."} for n in range(20)]
    make_checkpoint(folder / "base", [text for row in rows for text in row.values()])
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "job.yaml").write_text(SPEC, encoding="utf-8")


def first_step(folder: Path, output: str, resources: dict[str, int]) -> float:
    """Seconds from the start of the job, which Slurm records to the second, to the first line of metrics."""
    sets = [f"output_dir={output}", *(f"resources.{key}={value}" for key, value in resources.items())]
    flags = [word for each in sets for word in ("--set", each)]
    done = subprocess.run(
        [sys.executable, "-m", "dimba", "launch", "job.yaml", "--allow-cpu", *flags],
        cwd=folder,
        env={**os.environ, "DIMBA_RUNS": str(folder / "runs")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    newest = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    metrics = newest / "attempts" / "1" / "metrics.jsonl"
    record = json.loads((newest / "run.json").read_text(encoding="utf-8"))
    return round(metrics.stat().st_mtime - started(record["attempts"][-1]["job"].partition(":")[0]), 1)


def started(job: str) -> float:
    """The start of the job, in seconds since 1970."""
    command = ["scontrol", "show", "job", "--oneliner", job]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return datetime.fromisoformat(re.findall(r"StartTime=(\S+)", text)[0]).timestamp()


if __name__ == "__main__":
    main()

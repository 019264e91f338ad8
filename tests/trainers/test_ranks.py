"""Several processes train what one does: the same rows a step, the same weights, one log, one checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import REPOSITORY, write_rows

FLAGS = ["--device", "cpu", "--num-epochs", "2", "--batch-size", "2", "--learning-rate", "1e-3", "--max-length", "64"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """13: no multiple of anything."""
    return write_rows(tmp_path / "data.jsonl", [{"prompt": f"Count to {n}", "response": "1" * n} for n in range(1, 14)])


def train(folder: Path, base: Path, rows: Path, processes: int, *further: str) -> subprocess.CompletedProcess[str]:
    """A job of the launcher's, through its entry point."""
    launcher = f"accelerate launch --quiet --num_machines 1 --num_processes {processes} --mixed_precision no".split()
    several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    trainer = [str(REPOSITORY / "scripts/finetuning/finetune_sft.py"), "--base-checkpoint", str(base)]
    named = ["--dataset", str(rows), "--output-dir", str(folder), *FLAGS, *further]
    wrapped = [*launcher, *several, "--dynamo_backend", "no", "-m", "dimba.trainers.rank", *trainer, *named]
    return subprocess.run(
        [sys.executable, "-m", "dimba.trainers.entry", *wrapped],
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(rows.parent / "hf"),
            "PYTHONPATH": str(REPOSITORY),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def farthest(one: Path, other: Path) -> float:
    """The largest difference of a weight."""
    (name,) = [each.name for each in one.glob("*.safetensors")]
    mine, theirs = load_file(one / name), load_file(other / name)
    assert mine.keys() == theirs.keys()
    return max(float(np.abs(mine[key] - theirs[key]).max()) for key in mine)


@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_two_processes_train_what_one_does(tiny_checkpoint: Path, rows: Path, tmp_path: Path, method: tuple[str, ...]):
    for processes in (1, 2):
        accumulation = ("--grad-accumulation-steps", str(4 // processes))
        done = train(tmp_path / str(processes), tiny_checkpoint, rows, processes, *accumulation, *method)
        assert done.returncode == 0, done.stdout + done.stderr
    assert farthest(tmp_path / "1", tmp_path / "2") < 1e-5
    seen = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("1", "2")]
    tokens = [[json.loads(line)["num_tokens"] for line in lines] for lines in seen]
    assert tokens[0] == tokens[1] and len(tokens[0]) == 4, "two steps a pass, the same rows in each"

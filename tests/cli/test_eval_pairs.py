"""`dimba eval` on the pairs that a DPO run held out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Dimba, write_rows


@pytest.mark.proof
def test_a_run_of_pairs_is_compared_by_the_margin_of_those_that_it_held_out(
    tiny_checkpoint: Path, tmp_path: Path, new_dimba: Dimba
):
    rows = [
        {"prompt": f"What is {n} + {n}?", "chosen": f"It is {2 * n}.", "rejected": f"No, {n} add {n}."}
        for n in range(40)
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    spec = {
        "version": 1,
        "name": "pairs",
        "mode": "dpo",
        "base_checkpoint": str(tiny_checkpoint),
        "dataset": {"path": "pairs.jsonl"},
        "method": "lora",
        "training": {"batch_size": 4, "max_steps": 8, "max_length": 128, "learning_rate": 0.01},
        "trainer_args": {"validation-split": 12},
        "output_dir": "out",
        "resources": {"gpus": "none"},
        "runner": "process",
    }
    (tmp_path / "pairs.yaml").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "dimba", "launch", "pairs.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    launched = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert launched.returncode == 0, launched.stderr
    done = new_dimba("eval", "pairs", "--runner", "process", "--gpus", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("better than its base: margin ")
    found = json.loads((tmp_path / "out" / "eval.json").read_text(encoding="utf-8"))
    assert found["held_out"] is True and found["rows"] == 12 and found["overlap"]["training_rows"] == 28
    assert list(found["measures"]) == ["loss", "margin"] and found["by"] == "margin"
    margin = found["measures"]["margin"]
    assert margin["model"] > margin["against"] and margin["accuracy"]["model"] == 1.0

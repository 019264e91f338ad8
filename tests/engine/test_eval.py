"""An evaluation in the container: held-out rows, losses and a reward model, as in a process."""

import json
from pathlib import Path

import pytest

from dimba.runners.docker.engine import Engine
from tests.conftest import Dimba, write_rows


def test_a_run_is_evaluated_in_the_container_on_the_rows_that_it_held_out(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path, dimba: Dimba
):
    rows = [{"prompt": f"What is {n} + {n}?", "response": f"It is {n + n}."} for n in range(40)]
    write_rows(tmp_path / "data.jsonl", rows)
    spec = {
        "version": 1,
        "name": "inside",
        "mode": "sft",
        "base_checkpoint": str(tiny_checkpoint),
        "dataset": {"path": "data.jsonl"},
        "method": "lora",
        "training": {"batch_size": 4, "max_steps": 4, "max_length": 128, "learning_rate": 0.01},
        "trainer_args": {"validation-split": 12},
        "output_dir": "out",
        "resources": {"gpus": "none"},
        "runner": "docker",
    }
    (tmp_path / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")
    own = {"HF_HOME": str(tmp_path / "hf")}
    launched = dimba("launch", "job.yaml", cwd=tmp_path, **own)
    assert launched.returncode == 0, launched.stderr
    inside, outside = (
        dimba("eval", "inside", "--json", "--reward", "length:4", "--max-new-tokens", "4", *where, cwd=tmp_path, **own)
        for where in ((), ("--runner", "process"))
    )
    assert inside.returncode == outside.returncode == 0, inside.stderr + outside.stderr
    found, expected = json.loads(inside.stdout), json.loads(outside.stdout)
    assert found["held_out"] is True and found["rows"] == 12 and found["overlap"]["training_rows"] == 28
    for name in ("model", "against"):
        assert found["measures"]["loss"][name] == pytest.approx(expected["measures"]["loss"][name], rel=1e-5)
    left = engine.api.containers(all=True, filters={"label": "dimba.run-id"})
    assert not [each for each in left if each["Labels"]["dimba.run-id"].startswith("eval-")]

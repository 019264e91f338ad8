"""One spec with two processes trains bit-identical weights with every runner."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimba.runners.docker.engine import Engine
from tests.compose import build_image, compose_run, make_project
from tests.conftest import Dimba, pretend_gpus
from tests.slurm.conftest import withdraw
from tests.weights import largest_difference, saved_rank_count, weights_hash

pytestmark = pytest.mark.slurm

# The two GPUs are pretend ones, so two processes train on the CPU.
SPEC = """\
version: 1
mode: sft
base_checkpoint: checkpoints/base
dataset: {{path: data/rows.jsonl}}
method: {method}
training: {{batch_size: 2, grad_accumulation_steps: 2, max_steps: 3, max_length: 128, learning_rate: 1.0e-3}}
accelerate: {{mixed_precision: "no"}}
output_dir: checkpoints/compose
trainer_args: {{save-steps: 2}}
resources: {{gpus: 2}}
"""
IN_DOCKER = ["slurm.container=docker", "slurm.image=dimba:compose"]
PLACES = {
    "process": ["runner=process"],
    "docker": ["runner=docker"],
    "slurm": ["runner=slurm", "resources.gpus=1", "resources.nodes=2"],
    "slurm in docker": ["runner=slurm", "resources.gpus=1", "resources.nodes=2", *IN_DOCKER],
    "alone": ["runner=process", "resources.gpus=none"],
}
# Where a job runs does not depend on its method: one method everywhere, the other where a difference would show first.
METHODS = {"lora": tuple(PLACES), "full": ("process", "slurm in docker", "alone")}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(method: str, tmp_path: Path, tiny_checkpoint: Path, nodes: list[str], engine: Engine) -> Iterator[Path]:
    yield make_project(tmp_path, tiny_checkpoint, SPEC.format(method=method), owner=os.geteuid())
    withdraw(tmp_path)


def test_one_spec_with_two_processes_trains_the_same_weights_with_every_runner(
    project: Path, method: str, dimba: Dimba
):
    build_image()
    gpus, cache = pretend_gpus(project / "bin"), str(project / "cache")
    made = {}
    for place in METHODS[method]:
        sets = [word for each in (*PLACES[place], f"output_dir=checkpoints/{place}") for word in ("--set", each)]
        done = dimba("launch", "jobs/x.yaml", "--allow-cpu", *sets, cwd=project, HF_HOME=cache, **gpus)
        assert done.returncode == 0, done.stderr + done.stdout
        made[place] = project / "checkpoints" / place
    volume = f"{project}/bin/nvidia-smi:/usr/bin/nvidia-smi:ro"
    done = compose_run(project, "--volume", volume, "job", JOB="jobs/x.yaml", DIMBA_ALLOW_CPU="1")
    assert done.returncode == 0, done.stderr + done.stdout
    alone = made.pop("alone")
    made["compose"] = project / "checkpoints" / "compose"
    assert {place: saved_rank_count(folder) for place, folder in made.items()} == dict.fromkeys(made, 2)
    assert len({weights_hash(folder) for folder in made.values()}) == 1
    assert all(largest_difference(alone, folder) < 1e-5 for folder in made.values())

"""A sweep whose runs are containers on two pretend GPUs."""

import json
from pathlib import Path

import pytest

from dimba.runners.docker.engine import Engine
from tests.cli.test_cli import edit
from tests.conftest import Dimba

pytestmark = pytest.mark.engine

TRAINER = """\
import argparse, time
parser = argparse.ArgumentParser()
for flag in ("--base-checkpoint", "--dataset", "--output-dir", "--lora-r"):
    parser.add_argument(flag)
parser.add_argument("--use-lora", action="store_true")
parser.parse_args()
time.sleep(1)
"""


def test_a_grid_of_four_runs_in_containers_on_two_gpus(job: Path, dimba: Dimba, engine: Engine):
    (job / "trainer.py").write_text(TRAINER, encoding="utf-8")
    edit(job, "gpus: none}", "gpus: 1}\ntrainer: trainer.py\nrunner: docker")
    sweep = ("launch", "job.yaml", "--allow-cpu", "--trust-spec", "--sweep", "lora.r=2,4,8,16")
    done = dimba(*sweep, cwd=job, DIMBA_LEASES=str(job / "leases"))
    assert done.returncode == 0, done.stderr
    assert "4 runs, 2 at a time (1 GPU each)" in done.stderr
    records = [json.loads(path.read_text("utf-8")) for path in sorted(job.glob("runs/*/run.json"))]
    assert [record["status"] for record in records] == ["succeeded"] * 4
    assert {record["gpus"][0] for record in records} == {"0", "1"} and len({r["image"] for r in records}) == 1
    for record in records:
        engine.api.remove_container(record["container_id"])

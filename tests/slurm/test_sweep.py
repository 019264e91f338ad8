"""A sweep on a real Slurm: one array whose tasks are runs of their own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import edit
from tests.cli.test_sweep import HELD_OUT, TRAINER
from tests.conftest import Dimba
from tests.slurm.conftest import cluster, until, withdraw

pytestmark = pytest.mark.slurm

SWEEP = ("launch", "job.yaml", "--trust-spec", *HELD_OUT, "--sweep", "lora.r=2,4,8,16", "--sweep-at-once", "2")


@pytest.fixture
def place(job: Path, nodes: list[str]) -> Iterator[Path]:
    (job / "trainer.py").write_text(TRAINER, encoding="utf-8")
    edit(job, "gpus: none}", "gpus: none}\ntrainer: trainer.py\nrunner: slurm\nslurm: {time: 5}")
    yield job
    withdraw(job)


def rows(dimba: Dimba, place: Path) -> dict[str, Any]:
    found = json.loads(dimba("ps", "--group", "--json", cwd=place).stdout)
    return {run["id"]: run for run in found["runs"]}


def test_a_sweep_is_one_array_whose_tasks_are_listed_stopped_and_resumed_as_runs(place: Path, dimba: Dimba):
    name = dimba(*SWEEP, "--set", "training.max_steps=600", "--detach", cwd=place).stdout.strip()
    first, second, third, fourth = (f"{name}-{number}" for number in (1, 2, 3, 4))
    until(lambda: [rows(dimba, place)[run]["status"] for run in (first, second)] == ["running"] * 2)
    assert rows(dimba, place)[fourth]["waits_for"].endswith("JobArrayTaskLimit")
    jobs = {
        json.loads((place / "runs" / run / "run.json").read_text("utf-8"))["attempts"][0]["job"]
        for run in (first, fourth)
    }
    assert {job.partition(":")[0].partition("_")[2] for job in jobs} == {"1", "4"}
    assert len({job.partition("_")[0] for job in jobs}) == 1
    assert dimba("stop", second, cwd=place).returncode == 0
    until(lambda: rows(dimba, place)[third]["status"] == "running")
    stopped = dimba("stop", name, cwd=place)
    assert stopped.returncode == 0, stopped.stderr
    assert {run["status"] for run in rows(dimba, place).values()} == {"stopped"}
    assert not [line for line in cluster("squeue", "--noheader", "--format=%k").splitlines() if name in line]
    resumed = dimba("resume", second, "--detach", cwd=place)
    assert resumed.returncode == 0, resumed.stderr
    assert dimba("stop", second, "--now", cwd=place).returncode == 0


def test_a_followed_array_ends_with_its_best_run_and_its_worst_are_stopped(place: Path, dimba: Dimba):
    done = dimba(*SWEEP, "--set", "training.max_steps=60", "--stop-worst", cwd=place)
    assert done.returncode == 0, done.stderr
    found = rows(dimba, place)
    reasons = [run["exit_reason"] for run in found.values()]
    assert found[next(iter(found))]["values"] == {"lora.r": "2"} and "(r=2), validation loss" in done.stderr
    assert "stopped_by_sweep" in reasons and set(reasons) == {"completed", "stopped_by_sweep"}

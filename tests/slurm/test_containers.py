"""Slurm jobs that run in a container on each node; the nodes of the test's cluster are this machine with its engine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dimba.common.contract import LABEL_RUN_ID
from dimba.runners.docker.engine import Engine
from tests.compose import build_image
from tests.conftest import Dimba
from tests.engine.test_docker import trainer
from tests.slurm.conftest import until
from tests.slurm.test_slurm import LONG, detached, log, runs, saved

pytestmark = pytest.mark.slurm


@pytest.fixture
def container_job(two_nodes: Path, engine: Engine) -> Iterator[Path]:
    """A job for two nodes with one process each, in the image that Compose builds."""
    path = two_nodes / "job.yaml"
    text = path.read_text(encoding="utf-8").replace("gpus: 2, nodes: 2", "gpus: 1, nodes: 2")
    inside = f"slurm: {{time: 10, container: docker, image: '{build_image()}'}}"
    path.write_text(text.replace("slurm: {time: 10}", inside), encoding="utf-8")
    yield two_nodes


def containers(engine: Engine, run: str) -> list[dict[str, Any]]:
    found = engine.api.containers(filters={"label": f"{LABEL_RUN_ID}={run}"})
    return [engine.api.inspect_container(each["Id"]) for each in found]


def test_containers_on_two_nodes_save_when_stopped_can_be_resumed_and_are_removed(
    container_job: Path, dimba: Dimba, engine: Engine
):
    run = detached(dimba, container_job, "--trust-spec", *LONG, "--set", "trainer_args.save-steps=5000")
    until(lambda: "step 1" in log(container_job, run))
    both = containers(engine, run)
    assert len(both) == 2 and all(each["HostConfig"]["CapDrop"] == ["ALL"] for each in both)
    assert dimba("stop", run, cwd=container_job).returncode == 0
    (record,) = runs(dimba, container_job)
    assert (record["status"], record["exit_reason"]) == ("stopped", "stopped_by_user")
    assert len(saved(container_job)) == 1 and not containers(engine, run)
    resumed = dimba("resume", run, "--detach", cwd=container_job)
    assert "continuing from" in resumed.stderr, resumed.stderr
    until(lambda: len(containers(engine, run)) == 2)
    assert dimba("stop", run, "--now", cwd=container_job).returncode == 0
    assert runs(dimba, container_job)[0]["status"] == "stopped"
    until(lambda: not containers(engine, run), 30)


def test_the_status_of_a_trainer_that_fails_in_a_container_is_recorded(container_job: Path, dimba: Dimba):
    text = (container_job / "job.yaml").read_text(encoding="utf-8")
    (container_job / "job.yaml").write_text(text.replace("trainer_args: {save-steps: 2}\n", ""), encoding="utf-8")
    trainer(container_job, "raise SystemExit(7)")
    run = detached(dimba, container_job, "--trust-spec")
    until(lambda: runs(dimba, container_job)[0]["status"] == "failed")
    (record,) = runs(dimba, container_job)
    assert (record["exit_reason"], record["exit_code"]) == ("trainer_error", 7)
    exit_file = container_job / "runs" / run / "attempts" / "1" / "exit.json"
    assert json.loads(exit_file.read_text(encoding="utf-8"))["exit_code"] == 7

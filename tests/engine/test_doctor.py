"""The doctor on a healthy machine, and the findings of its containers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.machine import Machine, find_engine, has_base
from dimba.commands.doctor.mounts import check_mounts
from dimba.runners.docker.engine import Engine
from tests.conftest import REPOSITORY, TEST_BASE, Dimba

UNKNOWN_UID = 1234  # no user has it


def machine(folder: Path) -> Machine:
    found = find_engine(folder)
    assert has_base(found)
    return Machine(**{**vars(found), "base_is_here": True})


def containers(engine: Engine) -> set[str]:
    """Ids of the doctor's containers; other tests may use the same engine."""
    there = engine.api.containers(all=True, filters={"ancestor": TEST_BASE})
    return {each["Id"] for each in there if "doctor" in each["Command"] or "nvidia-smi" in each["Command"]}


def test_on_a_healthy_machine_every_check_is_ok_within_seconds_and_nothing_is_left_behind(
    engine: Engine, tmp_path: Path, dimba: Dimba
):
    began = time.monotonic()
    done = dimba("doctor", "--json", cwd=tmp_path, HF_HOME=str(tmp_path / "hf"))
    assert time.monotonic() - began < 15
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0 and {check["status"] for check in checks.values()} == {"ok"}, checks
    assert engine.facts.version in checks["engine"]["detail"] and engine.facts.address in checks["engine"]["detail"]
    assert "driver 580.95.05 runs CUDA 13" in checks["driver and CUDA"]["detail"]
    assert checks["disk, images"]["detail"].endswith(engine.api.info()["DockerRootDir"])
    assert list(tmp_path.iterdir()) == [] and not containers(engine)


def test_without_json_each_check_is_printed_on_a_line(tmp_path: Path, dimba: Dimba):
    done = dimba("doctor", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("ok       engine: Docker ")
    assert "\nok       GPUs in a container: 2 seen by nvidia-smi, passed by CDI\n" in done.stdout


def test_gpus_that_do_not_work_in_a_container_are_an_error(tmp_path: Path, dimba: Dimba):
    # The pretend driver only names the GPUs inside, as an engine without the container toolkit's hook would.
    done = dimba("doctor", cwd=tmp_path, DIMBA_GPU_PATH="nvidia")
    assert done.returncode == 3 and "0 of 2 seen, passed by the nvidia driver" in done.stdout
    assert "fix: `sudo apt-get install nvidia-container-toolkit`" in done.stdout


def test_without_the_base_image_the_checks_in_a_container_are_skipped(tmp_path: Path, dimba: Dimba):
    done = dimba("doctor", "--json", cwd=tmp_path, DIMBA_BASE_IMAGE="no-such/cuda:12.8.1-base")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0
    for name in ("base image", "GPUs in a container", "files from a container"):
        assert checks[name]["status"] == "warning" and "docker pull no-such/cuda" in checks[name]["fix"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs jobs as another user")
def test_the_check_passes_if_the_jobs_user_can_write_and_else_names_the_fix(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    os.chown(tmp_path, UNKNOWN_UID, UNKNOWN_UID)
    (fine,) = check_mounts(machine(tmp_path))
    assert fine == Check(
        name=fine.name, status="ok", detail=f"user {UNKNOWN_UID} writes and removes files in {tmp_path}"
    )
    monkeypatch.setattr(os, "chown", lambda *_: None)  # the folder stays root's, as on some file servers
    (closed,) = check_mounts(machine(tmp_path))
    assert closed.status == "error" and "Permission denied" in closed.detail
    assert f"install -d -o {UNKNOWN_UID} -g {UNKNOWN_UID} {tmp_path / 'checkpoints'}" in closed.fix
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_no_container(engine: Engine, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "dimba", "doctor"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "base image" in line:  # the next check runs a container
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert not containers(engine) and list(tmp_path.iterdir()) == []

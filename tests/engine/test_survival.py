"""Detached runs: queues, limits, kills, and the classification of failures."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimba.common.checkpoints import complete_checkpoints
from dimba.runners.docker.engine import Engine
from tests.conftest import REPOSITORY, Dimba
from tests.engine.test_docker import edit, inspect, trainer

WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _own_leases(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DIMBA_LEASES", str(tmp_path_factory.mktemp("leases")))


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    pytest.fail(f"the condition did not hold within {seconds} s")


def detached(dimba: Dimba, job: Path, *words: str, **environment: str) -> str:
    done = dimba("launch", "job.yaml", "--detach", "--allow-cpu", "--trust-spec", *words, cwd=job, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def record(job: Path, run: str) -> dict[str, Any]:
    return json.loads((job / "runs" / run / "run.json").read_text(encoding="utf-8"))


def reconciled(dimba: Dimba, job: Path, run: str) -> dict[str, Any]:
    """The record, reconciled by `dimba ps` with the containers."""
    return next(each for each in json.loads(dimba("ps", "-a", "--json", cwd=job).stdout) if each["id"] == run)


def test_a_queued_run_starts_when_its_gpu_is_free_even_if_its_supervisor_was_killed(
    job: Path, dimba: Dimba, engine: Engine
):
    trainer(job, WAITS)
    edit(job, "gpus: none", "gpus: 2")
    first = detached(dimba, job)
    assert inspect(engine, {"id": first})["Config"]["Labels"]["dimba.gpus"].count(",") == 1
    second = detached(dimba, job, "--set", "resources.gpus=1", "--set", "output_dir=out2")
    waiting = record(job, second)
    assert waiting["status"] == "queued" and f"run {first}" in waiting["waits_for"]
    supervisor = f"dimba _attend {second}"
    until(lambda: subprocess.run(["pkill", "-9", "-f", supervisor], check=False).returncode == 0)
    time.sleep(0.5)
    assert dimba("stop", first, cwd=job).returncode == 0
    assert record(job, second)["status"] == "queued", "its supervisor is dead"
    dimba("ps", cwd=job)
    until(lambda: record(job, second)["status"] == "running")
    assert len(record(job, second)["gpus"]) == 1
    assert dimba("stop", second, cwd=job).returncode == 0
    assert record(job, second)["exit_reason"] == "stopped_by_user"


def test_a_queued_run_can_be_stopped_and_a_run_that_shares_gpus_does_not_wait(job: Path, dimba: Dimba, engine: Engine):
    trainer(job, WAITS)
    edit(job, "gpus: none", "gpus: all")
    first = detached(dimba, job)
    second = detached(dimba, job, "--set", "output_dir=out2")
    assert dimba("stop", second, cwd=job).returncode == 0
    assert record(job, second)["status"] == "stopped" and not record(job, second)["attempts"]
    third = detached(dimba, job, "--share", "--set", "output_dir=out3")
    assert record(job, third)["status"] == "running" and record(job, third)["gpus"] == record(job, first)["gpus"]
    for run in (first, third):
        dimba("stop", run, "--now", cwd=job)


def test_leases_are_rebuilt_from_the_labels_of_containers(
    job: Path, dimba: Dimba, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trainer(job, WAITS)
    edit(job, "gpus: none", "gpus: all")
    first = detached(dimba, job)
    monkeypatch.setenv("DIMBA_LEASES", str(tmp_path / "empty"))  # as if the lease table were lost
    second = detached(dimba, job, "--set", "output_dir=out2")
    assert f"run {first}" in record(job, second)["waits_for"]
    dimba("stop", second, cwd=job)
    dimba("stop", first, "--now", cwd=job)


def test_the_log_of_a_detached_run_is_on_disk_and_outlives_the_container(job: Path, dimba: Dimba, engine: Engine):
    trainer(job, "import os\nprint('token', os.environ['HF_TOKEN'])" + WAITS)
    edit(job, "resources:", "container: {env: [HF_TOKEN]}\nresources:")
    run = detached(dimba, job, HF_TOKEN="hf_not-to-be-seen")
    log = job / "runs" / run / "attempts" / "1" / "log.txt"
    until(lambda: "ready" in log.read_text(encoding="utf-8"))
    assert "token ***" in log.read_text(encoding="utf-8")
    engine_log = engine.api.logs(inspect(engine, {"id": run})["Id"]).decode()
    assert "token ***" in engine_log
    engine.api.remove_container(inspect(engine, {"id": run})["Id"], force=True)
    found = reconciled(dimba, job, run)
    assert (found["status"], found["exit_reason"]) == ("lost", "container_missing")
    assert "ready" in dimba("logs", run, cwd=job).stdout


def test_a_run_at_its_time_limit_saves_and_stops_and_can_be_resumed(tiny_job: Path, dimba: Dimba):
    edit(tiny_job, "max_steps: 3", "max_steps: 100000")
    for limit, out in (("40s", "out"), ("240s", "out2")):  # the first suffices, unless the machine is busy
        done = dimba("launch", "job.yaml", "--time-limit", limit, "--set", f"output_dir={out}", cwd=tiny_job)
        found = json.loads(dimba("ps", "-a", "--json", cwd=tiny_job).stdout)[-1]
        assert done.returncode == 1 and "reached its time limit" in done.stderr, done.stderr
        assert (found["status"], found["exit_reason"]) == ("stopped", "time_limit")
        if complete := complete_checkpoints(tiny_job / out):
            break
    saved = complete[-1]
    assert f"dimba resume {found['id']}` continues from {saved.name}" in done.stderr
    assert dimba("resume", found["id"], "--detach", cwd=tiny_job).returncode == 0
    log = tiny_job / "runs" / found["id"] / "attempts" / "2" / "log.txt"
    step = int(saved.name.partition("-")[2]) + 1
    until(lambda: f"step {step}/100000" in log.read_text(encoding="utf-8"))
    assert dimba("resume", found["id"], cwd=tiny_job).returncode == 2, "it is running"
    assert dimba("stop", found["id"], cwd=tiny_job).returncode == 0
    assert record(tiny_job, found["id"])["exit_reason"] == "stopped_by_user"


def test_docker_stop_saves_a_checkpoint(tiny_job: Path, dimba: Dimba, engine: Engine):
    edit(tiny_job, "max_steps: 3", "max_steps: 100000")
    run = detached(dimba, tiny_job)
    until(lambda: (tiny_job / "runs" / run / "attempts" / "1" / "metrics.jsonl").exists())
    subprocess.run(["docker", "stop", inspect(engine, {"id": run})["Id"]], check=True, capture_output=True)
    found = reconciled(dimba, tiny_job, run)
    assert (found["status"], found["exit_reason"]) == ("stopped", "stopped_by_user")
    assert list((tiny_job / "out").glob("checkpoint-*/dimba-whole.json"))


FAILURES = {
    "out_of_memory": ("x = bytearray(10**9)\nfor n in range(0, 10**9, 4096): x[n] = 1", "resources.memory"),
    "shm_too_small": (
        "raise SystemExit('RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error.')",
        "shm_size",
    ),
    "gpu_out_of_memory": (
        "raise SystemExit('RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB')",
        "batch_size",
    ),
    "trainer_error": ("raise SystemExit('ValueError: no such thing')", "dimba logs"),
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "dimba logs"),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_each_kind_of_failure_has_its_exit_reason_and_hint(job: Path, dimba: Dimba, reason: str):
    body, hint = FAILURES[reason]
    trainer(job, body)
    done = dimba("launch", "job.yaml", "--trust-spec", "--set", "resources.memory=200m", cwd=job)
    (found,) = json.loads(dimba("ps", "-a", "--json", cwd=job).stdout)
    assert (done.returncode, found["status"], found["exit_reason"]) == (1, "failed", reason), done.stderr
    assert hint in done.stderr, done.stderr


def test_only_transient_failures_are_retried(job: Path, dimba: Dimba):
    once = "import os, signal, pathlib\nmark = pathlib.Path('mark')\nif not mark.exists():\n    mark.touch()\n"
    trainer(job, once + "    os.kill(os.getpid(), signal.SIGKILL)\nprint('well')")
    done = dimba("launch", "job.yaml", "--trust-spec", "--retries", "2", cwd=job)
    (found,) = json.loads(dimba("ps", "-a", "--json", cwd=job).stdout)
    assert done.returncode == 0 and "attempt 2 of 3" in done.stderr, done.stderr
    assert [each["exit_reason"] for each in found["attempts"]] == ["killed", "completed"]
    trainer(job, "raise SystemExit('always')")
    edit(job, "trainer: mine.py\ntrainer: mine.py\n", "trainer: mine.py\n")
    done = dimba("launch", "job.yaml", "--trust-spec", "--retries", "2", "--set", "output_dir=out2", cwd=job)
    assert done.returncode == 1 and len(reconciled(dimba, job, last(job))["attempts"]) == 1


def last(job: Path) -> str:
    return max(job.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime).parent.name


def test_a_detached_run_is_retried_by_its_supervisor(job: Path, dimba: Dimba):
    trainer(job, "import os, signal, time\ntime.sleep(2)\nos.kill(os.getpid(), signal.SIGKILL)")
    run = detached(dimba, job, "--retries", "1")
    found = until(lambda: record(job, run)["status"] == "failed" and record(job, run), 180)
    assert [each["exit_reason"] for each in found["attempts"]] == ["killed", "killed"]


def test_a_run_whose_launcher_was_killed_during_the_start_is_found_by_its_labels(
    job: Path, dimba: Dimba, engine: Engine
):
    trainer(job, WAITS)
    launcher = subprocess.Popen(
        [sys.executable, "-m", "dimba", "launch", "job.yaml", "--trust-spec"],
        cwd=job,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: engine.api.containers(filters={"label": "dimba.run-id"}) and list(job.glob("runs/*/run.json")))
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    run = last(job)
    path = job / "runs" / run / "run.json"
    value = record(job, run)  # as if the launcher had died before it recorded the job
    value |= {"status": "starting", "container_id": None}
    value["attempts"][-1]["job"] = None
    path.write_text(json.dumps(value), encoding="utf-8")
    assert reconciled(dimba, job, run)["status"] == "running"
    assert dimba("stop", run, cwd=job).returncode == 0
    assert record(job, run)["status"] == "stopped"

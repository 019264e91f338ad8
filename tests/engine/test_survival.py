"""Runs that nobody watches: queues, limits, what is killed, and what a job dies of."""

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

from dimba.common.checkpoints import whole_checkpoints
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
    pytest.fail("it did not come to that")


def detached(dimba: Dimba, job: Path, *words: str, **environment: str) -> str:
    done = dimba("launch", "job.yaml", "--detach", "--allow-cpu", "--trust-spec", *words, cwd=job, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def record(job: Path, run: str) -> dict[str, Any]:
    return json.loads((job / "runs" / run / "run.json").read_text(encoding="utf-8"))


def looked_at(dimba: Dimba, job: Path, run: str) -> dict[str, Any]:
    """The record after a look at what really runs."""
    return next(each for each in json.loads(dimba("ps", "-a", "--json", cwd=job).stdout) if each["id"] == run)


def test_runs_wait_for_gpus_and_start_by_themselves(job: Path, dimba: Dimba, engine: Engine):
    trainer(job, WAITS)
    edit(job, "gpus: none", "gpus: 2")
    first = detached(dimba, job)
    assert inspect(engine, {"id": first})["Config"]["Labels"]["dimba.gpus"].count(",") == 1
    second = detached(dimba, job, "--set", "resources.gpus=1", "--set", "output_dir=out2")
    waiting = record(job, second)
    assert waiting["status"] == "queued" and f"run {first}" in waiting["waits_for"]
    attendants = f"dimba _attend {second}"
    until(lambda: subprocess.run(["pkill", "-9", "-f", attendants], check=False).returncode == 0)
    time.sleep(0.5)
    assert dimba("stop", first, cwd=job).returncode == 0
    assert record(job, second)["status"] == "queued", "nobody is left to start it"
    dimba("ps", cwd=job)
    until(lambda: record(job, second)["status"] == "running")
    assert len(record(job, second)["gpus"]) == 1
    assert dimba("stop", second, cwd=job).returncode == 0
    assert record(job, second)["exit_reason"] == "stopped_by_user"


def test_a_run_that_waits_can_be_stopped_and_shared_cards_do_not_wait(job: Path, dimba: Dimba, engine: Engine):
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
    monkeypatch.setenv("DIMBA_LEASES", str(tmp_path / "empty"))  # as if the table were lost
    second = detached(dimba, job, "--set", "output_dir=out2")
    assert f"run {first}" in record(job, second)["waits_for"]
    dimba("stop", second, cwd=job)
    dimba("stop", first, "--now", cwd=job)


def test_a_log_is_on_disk_while_nobody_follows_and_after_the_container_is_gone(job: Path, dimba: Dimba, engine: Engine):
    trainer(job, "import os\nprint('token', os.environ['HF_TOKEN'])" + WAITS)
    edit(job, "resources:", "container: {env: [HF_TOKEN]}\nresources:")
    run = detached(dimba, job, HF_TOKEN="hf_not-to-be-seen")
    log = job / "runs" / run / "attempts" / "1" / "log.txt"
    until(lambda: "ready" in log.read_text(encoding="utf-8"))
    assert "token ***" in log.read_text(encoding="utf-8")
    shown = engine.api.logs(inspect(engine, {"id": run})["Id"]).decode()
    assert "token ***" in shown
    engine.api.remove_container(inspect(engine, {"id": run})["Id"], force=True)
    found = looked_at(dimba, job, run)
    assert (found["status"], found["exit_reason"]) == ("lost", "container_missing")
    assert "ready" in dimba("logs", run, cwd=job).stdout


def test_a_time_limit_saves_and_stops_and_resume_goes_on(tiny_job: Path, dimba: Dimba):
    edit(tiny_job, "max_steps: 3", "max_steps: 100000")
    done = dimba("launch", "job.yaml", "--time-limit", "20s", cwd=tiny_job)  # of which a start takes ten
    (found,) = json.loads(dimba("ps", "-a", "--json", cwd=tiny_job).stdout)
    assert done.returncode == 1 and "reached its time limit" in done.stderr, done.stderr
    assert (found["status"], found["exit_reason"]) == ("stopped", "time_limit")
    saved = whole_checkpoints(tiny_job / "out")[-1]
    assert f"dimba resume {found['id']}` continues from {saved.name}" in done.stderr
    assert dimba("resume", found["id"], "--detach", cwd=tiny_job).returncode == 0
    log = tiny_job / "runs" / found["id"] / "attempts" / "2" / "log.txt"
    step = int(saved.name.partition("-")[2]) + 1
    until(lambda: f"step {step}/100000" in log.read_text(encoding="utf-8"))
    assert dimba("resume", found["id"], cwd=tiny_job).returncode == 2, "it runs"
    assert dimba("stop", found["id"], cwd=tiny_job).returncode == 0
    assert record(tiny_job, found["id"])["exit_reason"] == "stopped_by_user"


def test_docker_stop_saves_too(tiny_job: Path, dimba: Dimba, engine: Engine):
    edit(tiny_job, "max_steps: 3", "max_steps: 100000")
    run = detached(dimba, tiny_job)
    until(lambda: (tiny_job / "runs" / run / "attempts" / "1" / "metrics.jsonl").exists())
    subprocess.run(["docker", "stop", inspect(engine, {"id": run})["Id"]], check=True, capture_output=True)
    found = looked_at(dimba, tiny_job, run)
    assert (found["status"], found["exit_reason"]) == ("stopped", "stopped_by_user")
    assert list((tiny_job / "out").glob("checkpoint-*/dimba-whole.json"))


DEATHS = {
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


@pytest.mark.parametrize("reason", DEATHS)
def test_failures_are_told_apart(job: Path, dimba: Dimba, reason: str):
    body, said = DEATHS[reason]
    trainer(job, body)
    done = dimba("launch", "job.yaml", "--trust-spec", "--set", "resources.memory=200m", cwd=job)
    (found,) = json.loads(dimba("ps", "-a", "--json", cwd=job).stdout)
    assert (done.returncode, found["status"], found["exit_reason"]) == (1, "failed", reason), done.stderr
    assert said in done.stderr, done.stderr


def test_what_may_go_well_another_time_is_tried_again_and_the_rest_is_not(job: Path, dimba: Dimba):
    once = "import os, signal, pathlib\nmark = pathlib.Path('mark')\nif not mark.exists():\n    mark.touch()\n"
    trainer(job, once + "    os.kill(os.getpid(), signal.SIGKILL)\nprint('well')")
    done = dimba("launch", "job.yaml", "--trust-spec", "--retries", "2", cwd=job)
    (found,) = json.loads(dimba("ps", "-a", "--json", cwd=job).stdout)
    assert done.returncode == 0 and "attempt 2 of 3" in done.stderr, done.stderr
    assert [each["exit_reason"] for each in found["attempts"]] == ["killed", "completed"]
    trainer(job, "raise SystemExit('always')")
    edit(job, "trainer: mine.py\ntrainer: mine.py\n", "trainer: mine.py\n")
    done = dimba("launch", "job.yaml", "--trust-spec", "--retries", "2", "--set", "output_dir=out2", cwd=job)
    assert done.returncode == 1 and len(looked_at(dimba, job, last(job))["attempts"]) == 1


def last(job: Path) -> str:
    return max(job.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime).parent.name


def test_a_detached_run_with_retries_is_attended(job: Path, dimba: Dimba):
    trainer(job, "import os, signal, time\ntime.sleep(2)\nos.kill(os.getpid(), signal.SIGKILL)")
    run = detached(dimba, job, "--retries", "1")
    found = until(lambda: record(job, run)["status"] == "failed" and record(job, run))
    assert [each["exit_reason"] for each in found["attempts"]] == ["killed", "killed"]


def test_a_launcher_killed_while_it_starts_the_job_hides_nothing(job: Path, dimba: Dimba, engine: Engine):
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
    value = record(job, run)  # as if it had died before it noted the job
    value |= {"status": "starting", "container_id": None}
    value["attempts"][-1]["job"] = None
    path.write_text(json.dumps(value), encoding="utf-8")
    assert looked_at(dimba, job, run)["status"] == "running"
    assert dimba("stop", run, cwd=job).returncode == 0
    assert record(job, run)["status"] == "stopped"

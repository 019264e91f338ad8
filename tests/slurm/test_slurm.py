"""Runs on a real Slurm with two nodes and two processes each: training, failures, stops, limits and node outages."""

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Dimba
from tests.slurm.conftest import cluster, until

pytestmark = pytest.mark.slurm

LONG = ("--set", "training.max_steps=5000", "--set", "trainer_args.save-steps=20")
BREAKS = """
import argparse, time
parser = argparse.ArgumentParser()
for flag in ("--base-checkpoint", "--dataset", "--output-dir", "--lora-r", "--lora-alpha", "--max-steps"):
    parser.add_argument(flag)
parser.add_argument("--use-lora", action="store_true")
parser.parse_args()
import torch.distributed as distributed
distributed.init_process_group("gloo")
if distributed.get_rank() == 2:
    raise RuntimeError("broken on the second machine")
time.sleep(300)
"""


def runs(dimba: Dimba, job: Path) -> list[dict[str, Any]]:
    return list(json.loads(dimba("ps", "-a", "--json", cwd=job).stdout))


def detached(dimba: Dimba, job: Path, *further: str) -> str:
    done = dimba("launch", "job.yaml", "--allow-cpu", "--detach", *further, cwd=job)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def number(job: Path, run: str) -> str:
    record = json.loads((job / "runs" / run / "run.json").read_text(encoding="utf-8"))
    return str(record["attempts"][-1]["job"]).partition(":")[0]


def log(job: Path, run: str) -> str:
    return (job / "runs" / run / "attempts" / "1" / "log.txt").read_text(encoding="utf-8")


def saved(job: Path) -> list[Path]:
    return list(job.glob("out/checkpoint-*/dimba-whole.json"))


def test_two_nodes_with_two_processes_each_train_one_model(two_nodes: Path, dimba: Dimba):
    done = dimba("launch", "job.yaml", "--allow-cpu", cwd=two_nodes)
    assert done.returncode == 0, done.stderr + done.stdout
    newest = max((two_nodes / "out").glob("checkpoint-*"))
    assert {path.name for path in newest.glob("rng_state_*")} == {f"rng_state_{rank}.pth" for rank in range(4)}
    (run,) = runs(dimba, two_nodes)
    assert (run["status"], run["exit_reason"], run["runner"]) == ("succeeded", "completed", "slurm")
    attempt = two_nodes / "runs" / run["id"] / "attempts" / "1"
    steps = [json.loads(line).get("step") for line in (attempt / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3], "only the first node writes metrics"
    assert "saved:" in log(two_nodes, run["id"]) and (attempt / "log-1.txt").is_file()


def test_a_failure_on_the_second_node_ends_the_job_within_seconds_and_is_logged(two_nodes: Path, dimba: Dimba):
    (two_nodes / "breaks.py").write_text(BREAKS, encoding="utf-8")
    own = ("--set", "trainer=breaks.py", "--set", "trainer_args={}", "--trust-spec")
    run = detached(dimba, two_nodes, *own)
    until(lambda: "RuntimeError: broken" in log(two_nodes, run))
    broken = time.monotonic()
    until(lambda: runs(dimba, two_nodes)[0]["exit_reason"] == "trainer_error", 30)
    assert time.monotonic() - broken < 30, "the other processes would sleep for minutes"
    word = json.loads((two_nodes / "runs" / run / "attempts" / "1" / "exit.json").read_text(encoding="utf-8"))
    assert (word["exit_code"], word["line"]) == (1, "RuntimeError: broken on the second machine")
    assert "machine 1 " in log(two_nodes, run)


def test_a_queued_job_reports_its_reason_and_can_be_stopped(two_nodes: Path, dimba: Dimba, nodes: list[str]):
    before = cluster(
        "sbatch", "--parsable", f"--nodes={len(nodes)}", "--exclusive", "--output=/dev/null", "--wrap=sleep 300"
    )
    try:
        run = detached(dimba, two_nodes)
        until(
            lambda: (
                "(" not in str(runs(dimba, two_nodes)[0]["waits_for"])
                and ":" in str(runs(dimba, two_nodes)[0]["waits_for"])
            )
        )
        (record,) = runs(dimba, two_nodes)
        assert record["status"] == "queued" and record["waits_for"].startswith(f"Slurm job {number(two_nodes, run)}: ")
        assert dimba("stop", run, cwd=two_nodes).returncode == 0
        (record,) = runs(dimba, two_nodes)
        assert (record["status"], record["exit_reason"]) == ("stopped", "stopped_by_user")
    finally:
        cluster("scancel", before)


def test_a_stopped_run_saves_on_all_nodes_and_can_be_resumed(two_nodes: Path, dimba: Dimba):
    run = detached(dimba, two_nodes, *LONG, "--set", "trainer_args.save-steps=5000")
    until(lambda: "step 1" in log(two_nodes, run))
    assert dimba("stop", run, cwd=two_nodes).returncode == 0
    assert [(each["status"], each["exit_reason"]) for each in runs(dimba, two_nodes)] == [
        ("stopped", "stopped_by_user")
    ]
    (newest,) = saved(two_nodes)
    resumed = dimba("resume", run, "--detach", cwd=two_nodes)
    assert f"continuing from {newest.parent.name}" in resumed.stderr
    assert dimba("stop", run, "--now", cwd=two_nodes).returncode == 0
    assert runs(dimba, two_nodes)[0]["status"] == "stopped"


def test_a_job_cancelled_in_slurm_is_recorded_as_stopped(two_nodes: Path, dimba: Dimba):
    run = detached(dimba, two_nodes, *LONG)
    until(lambda: "step 1" in log(two_nodes, run))
    cluster("scancel", number(two_nodes, run))
    until(lambda: runs(dimba, two_nodes)[0]["status"] == "stopped")


def test_a_job_at_its_time_limit_saves_is_requeued_and_continues(two_nodes: Path, dimba: Dimba):
    run = detached(dimba, two_nodes, *LONG)
    until(lambda: saved(two_nodes))
    job = number(two_nodes, run)
    *_, ran, seconds = cluster("squeue", "--noheader", f"--jobs={job}", "--format=%M").split(":")
    minutes = int(ran) + (1 if int(seconds) < 20 else 2)  # at least 40 s from now, to save and to end
    try:
        cluster("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this cluster does not let its user shorten a job: {error.stderr}")
    until(lambda: "queued again" in log(two_nodes, run), 240)
    until(lambda: runs(dimba, two_nodes)[0]["status"] == "queued")
    until(lambda: "PENDING" in cluster("scontrol", "show", "job", job))
    reached = max(int(path.parent.name.partition("-")[2]) for path in saved(two_nodes))
    note = json.loads((two_nodes / "out" / f"checkpoint-{reached}" / "dimba-trained-with.json").read_text())
    assert note["mode"] == "sft" and note["base_checkpoint"]["content"] and note["dataset"]["content"]
    cluster("scontrol", "update", f"JobId={job}", "TimeLimit=10", "StartTime=now")
    until(lambda: log(two_nodes, run).count("training: 5,000 steps") == 2)
    _, again = log(two_nodes, run).split("queued again")
    assert f"step {reached + 1}/" in again or "step 1/" not in again, again
    assert "has no note of what it was trained with" not in again and "with something else" not in again
    assert len(runs(dimba, two_nodes)[0]["attempts"]) == 1, "the scheduler restarts it within the same attempt"


@pytest.mark.parametrize("again", [True, False])
def test_a_job_on_a_node_that_goes_down_is_requeued_or_fails_with_node_failed(
    two_nodes: Path, dimba: Dimba, nodes: list[str], again: bool
):
    extra = () if again else ("--set", "slurm.extra=[--no-requeue]", "--trust-spec")
    run = detached(dimba, two_nodes, *LONG, *extra)
    until(lambda: saved(two_nodes))
    try:
        cluster("scontrol", "update", f"NodeName={nodes[1]}", "State=DOWN", "Reason=test")
        wanted = ("queued", None) if again else ("failed", "node_failed")
        until(lambda: [(each["status"], each["exit_reason"]) for each in runs(dimba, two_nodes)] == [wanted])
    finally:
        with suppress(subprocess.CalledProcessError):  # some clusters resume the node by themselves
            cluster("scontrol", "update", f"NodeName={nodes[1]}", "State=RESUME")
    if again:
        job = number(two_nodes, run)
        until(lambda: "PENDING" in cluster("scontrol", "show", "job", job))
        cluster("scontrol", "update", f"JobId={job}", "StartTime=now")
        until(lambda: log(two_nodes, run).count("training: 5,000 steps") == 2, 150)
        assert "step 1/" not in log(two_nodes, run).split("training: 5,000 steps")[2]

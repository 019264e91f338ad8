"""A sweep as a user launches, follows, stops and resumes it, with jobs as processes on two pretend GPUs."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimba.cli import main
from dimba.common.errors import BadInput
from dimba.records import RunFolder, find_run
from dimba.records.sweep import all_sweeps, find_group, find_sweep
from tests.cli.test_cli import edit
from tests.conftest import Dimba, pretend_gpus

TRAINER = """\
import argparse, json, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
for flag in ("--base-checkpoint", "--dataset", "--output-dir", "--lora-r", "--max-steps", "--validation-split"):
    parser.add_argument(flag)
parser.add_argument("--eval-steps")
parser.add_argument("--use-lora", action="store_true")
args = parser.parse_args()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
attempt = pathlib.Path(os.environ["DIMBA_ATTEMPT_DIR"])
for step in range(1, int(args.max_steps) + 1):
    time.sleep(0.1)
    line = {"step": step, "max_steps": int(args.max_steps), "loss": 1 / step, "eval_loss": int(args.lora_r) / step}
    with (attempt / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\\n")
if pathlib.Path(__file__).with_name("broken").exists():
    sys.exit("broken")
"""
HELD_OUT = ("--set", "trainer_args.validation-split=0.1", "--set", "trainer_args.eval-steps=1")
SWEEP = ("launch", "job.yaml", "--allow-cpu", "--trust-spec", *HELD_OUT)


@pytest.fixture
def place(job: Path) -> Path:
    (job / "trainer.py").write_text(TRAINER, encoding="utf-8")
    edit(job, "gpus: none}", "gpus: 1}\ntrainer: trainer.py\nrunner: process")
    return job


@pytest.fixture
def sweep(place: Path, dimba: Dimba) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {**pretend_gpus(place / "bin"), "DIMBA_LEASES": str(place / "leases"), "COLUMNS": "100"}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return dimba(*args, cwd=place, **environment)

    return run


def table(sweep: Callable[..., subprocess.CompletedProcess[str]], name: str = "") -> dict[str, Any]:
    done = sweep("ps", "--group", *([name] if name else []), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.proof
def test_a_followed_sweep_runs_two_at_a_time_and_ends_with_its_table_and_its_best_run(
    place: Path, sweep: Callable[..., subprocess.CompletedProcess[str]]
):
    done = sweep(*SWEEP, "--sweep", "lora.r=16,2", "--sweep", "training.max_steps=3,6")
    assert done.returncode == 0, done.stderr
    first, *_ = done.stderr.splitlines()
    assert "4 runs, 2 at a time (1 GPU each)" in first
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["RUN", "r", "max_steps", "STATUS", "STEP", "validation", "loss", "TIME"]
    assert [row.split()[:4] for row in rows] == [
        ["4", "2", "6", "succeeded"],
        ["3", "2", "3", "succeeded"],
        ["2", "16", "6", "succeeded"],
        ["1", "16", "3", "succeeded"],
    ]
    found = table(sweep)
    assert found["best"].endswith("-4") and f"best: {found['best']} (r=2, max_steps=6)" in done.stderr
    assert [run["status"] for run in found["runs"]] == ["succeeded"] * 4
    assert {run["values"]["lora.r"] for run in found["runs"]} == {"2", "16"}
    records = [json.loads(path.read_text("utf-8")) for path in place.glob("runs/*/run.json")]
    assert {record["group"] for record in records} == {found["id"]} and len({r["output_dir"] for r in records}) == 4
    assert {record["gpus"][0] for record in records} == {"GPU-0", "GPU-1"}
    report = sweep("report", found["id"])
    page = Path(report.stdout.strip()).read_text(encoding="utf-8")
    assert report.returncode == 0 and "The runs, best first" in page and "4: 2, 6" in page
    assert "run 4 (r=2, max_steps=6): succeeded, completed" in sweep("logs", found["id"][:-2]).stdout


@pytest.mark.proof
def test_a_killed_sweep_is_continued_by_ps_and_a_stopped_one_by_resume(
    place: Path, sweep: Callable[..., subprocess.CompletedProcess[str]]
):
    launched = sweep(*SWEEP, "--sweep", "lora.r=2,4,8,16", "--set", "training.max_steps=20", "--detach")
    name = launched.stdout.strip()
    log = place / "runs" / name / "supervisor.log"
    until(lambda: "running" in log.read_text("utf-8"))
    found = [each.name for each in Path("/proc").glob("[0-9]*") if _is_supervisor(each.name, name)]
    supervisor = min(found, key=int)  # a child that it has just forked looks the same until it runs its program
    os.kill(int(supervisor), signal.SIGKILL)
    until(lambda: not _is_supervisor(supervisor, name))
    until(lambda: "succeeded" in [run["status"] for run in table(sweep)["runs"]])
    stopped = sweep("stop", name)
    assert stopped.returncode == 0 and "stopped_by_user" in stopped.stderr
    states = {run["id"]: run["status"] for run in table(sweep)["runs"]}
    assert set(states.values()) == {"succeeded", "stopped"}
    time.sleep(1)
    assert {run["id"]: run["status"] for run in table(sweep)["runs"]} == states
    assert sweep("stop", name).returncode == 2
    resumed = sweep("resume", name)
    assert resumed.returncode == 0, resumed.stderr
    left = list(states.values()).count("stopped")
    assert f"continuing {left} of 4 runs" in resumed.stderr
    assert [run["status"] for run in table(sweep, name)["runs"]] == ["succeeded"] * 4
    assert sweep("resume", name).returncode == 2


def _is_supervisor(pid: str, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-3:] == [b"_attend", name.encode(), b""]
    except OSError:
        return False


@pytest.mark.proof
def test_the_worst_are_stopped_at_evaluations_and_first_runs_that_fail_alike_end_the_sweep(
    place: Path, sweep: Callable[..., subprocess.CompletedProcess[str]]
):
    done = sweep(*SWEEP, "--sweep", "lora.r=2,64", "--set", "training.max_steps=25", "--stop-worst")
    assert done.returncode == 0, done.stderr
    good, bad = table(sweep)["runs"]
    assert (good["status"], bad["status"], bad["exit_reason"]) == ("succeeded", "stopped", "stopped_by_sweep")
    assert bad["step"] < 25 and good["step"] == 25
    (place / "broken").touch()
    failed = sweep(*SWEEP, "--sweep", "lora.r=1,2,3,4,5,6,7,8,9,10", "--set", "training.max_steps=1")
    assert failed.returncode == 1 and "runs of 10 failed" in failed.stderr and "failed alike" in failed.stderr
    assert [run["exit_reason"] for run in table(sweep)["runs"]].count("sweep_failed") >= 1


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (["--sweep-max", "2"], "--sweep-max is of a sweep"),
        (["--stop-worst"], "--stop-worst is of a sweep"),
        (["--sweep-seed", "0"], "--sweep-seed is of a sweep"),
        (["--sweep", "lora.r=2"], "a sweep compares several"),
        (["--sweep", "lora.r=2,4", "--set", "lora.r=3"], "by --set and by --sweep"),
    ],
)
def test_flags_that_make_no_sweep_are_refused(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], cause: str
):
    monkeypatch.chdir(job)
    assert main(["launch", "job.yaml", *flags]) == 2
    assert cause in capsys.readouterr().err and not (job / "runs").exists()


def test_ps_without_a_sweep_names_the_command_that_launches_one(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(job)
    assert main(["ps", "--group"]) == 2 and main(["ps", "--group", "x"]) == 2
    assert "--sweep KEY=VALUE,VALUE" in capsys.readouterr().err


def test_a_sweep_is_found_by_its_id_or_its_start_unless_a_run_outside_of_it_starts_so(tmp_path: Path):
    def on_record(name: str, file: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}", encoding="utf-8")

    on_record("a-1", "sweep.json")
    on_record("a-1-1", "run.json")
    on_record("a-2", "run.json")
    assert [each.id for each in all_sweeps(tmp_path)] == ["a-1"]
    found = {name: find_sweep(tmp_path, name) for name in ("a-1", "a-", "a-1-1", "b", "")}
    assert isinstance(found["a-1"], RunFolder)
    assert [name for name, each in found.items() if each] == ["a-1"]


def test_a_name_means_its_newest_sweep_and_where_one_run_is_needed_the_refusal_lists_the_runs(tmp_path: Path):
    for sweep in ("a-1", "a-2"):
        record = {"id": sweep, "name": "a", "keys": ["lora.r"], "runs": [{"id": f"{sweep}-1", "values": ["8"]}]}
        for folder, file, value in (
            (sweep, "sweep.json", record),
            (f"{sweep}-1", "run.json", {"id": f"{sweep}-1", "name": "a", "group": sweep}),
        ):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / file).write_text(json.dumps(value), encoding="utf-8")
    newest = find_sweep(tmp_path, "a")
    assert newest and newest.id == "a-2" == find_group(tmp_path, "a").id
    assert find_sweep(tmp_path, "a-") is None
    with pytest.raises(BadInput, match="start of 2 sweeps"):
        find_group(tmp_path, "a-")
    for name in ("a", "a-2"):
        assert find_run(tmp_path, "a-2-1").id == "a-2-1"
        (tmp_path / "a-2-2").mkdir(exist_ok=True)
        (tmp_path / "a-2-2" / "run.json").write_text('{"id": "a-2-2", "name": "a", "group": "a-2"}', encoding="utf-8")
        with pytest.raises(BadInput, match="is a sweep") as refused:
            find_run(tmp_path, name)
        assert "dimba ps --group a-2`" in refused.value.hint

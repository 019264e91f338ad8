"""The output folder of a run: taken before anything is looked at, kept while the run is active, given back after it."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput
from dimba.common.owner import this_process
from dimba.common.ownership import owner_of, take
from dimba.common.processes import own_boot, own_host, own_pids
from dimba.host.output import look_at_output
from dimba.jobs.output_owner import owned_output
from dimba.jobs.reconcile import is_elsewhere, reconciled, stop_run
from dimba.records import RunFolder, RunRecord, create_run
from dimba.records.record import Attempt, now
from tests.conftest import QUESTIONS, REPOSITORY, hollow_checkpoint, write_rows

HERE = {"host": own_host(), "boot": own_boot(), "pids": own_pids()}
FAR = {"host": "far", "boot": "of another machine", "pids": "pid:[1]"}
SPEC = """\
version: 1
name: race
mode: sft
base_checkpoint: base
dataset: {path: data.jsonl}
method: full
output_dir: out
trainer: ./trainer.py
resources: {gpus: none}
runner: process
"""
TRAINER = """\
import argparse, pathlib, time
parser = argparse.ArgumentParser()
for flag in ("--model", "--dataset", "--output-dir"):
    parser.add_argument(flag)
out = parser.parse_args().output_dir
with pathlib.Path(out, "starts").open("a") as file:
    file.write("x")
time.sleep(8)
"""


def test_a_launch_into_a_folder_inside_one_in_use_leaves_no_folder_behind(tmp_path: Path):
    (tmp_path / "out").mkdir()
    held = take(tmp_path / "out", this_process("other"))
    inner = str(tmp_path / "out" / "a" / "b")
    with pytest.raises(BadInput, match="in use through"), owned_output(inner, tmp_path / "run"):
        pass
    held.release()
    assert not list((tmp_path / "out").iterdir())


def run_of(place: Path, status: str, **changes: object) -> RunFolder:
    folder = create_run(place / "runs", "run-1", os.getuid(), os.getgid())
    attempt = Attempt(number=1, job="1:1:folder", started=now())
    values = {"status": status, "runner": "process", "created": now(), "output_dir": str(place / "out"), **HERE}
    folder.write_record(RunRecord(id="run-1", name="run", attempts=(attempt,), **{**values, **changes}))
    return folder


def test_a_refused_launch_leaves_no_folder_behind(tmp_path: Path):
    with pytest.raises(KeyError), owned_output(str(tmp_path / "made" / "out"), tmp_path / "runs" / "run-1"):
        assert owner_of(tmp_path / "made" / "out")
        raise KeyError
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    take(tmp_path / "out", this_process("other"))
    with pytest.raises(BadInput, match="in use"), owned_output(str(tmp_path / "out" / "in"), tmp_path / "runs" / "run"):
        pass
    assert not (tmp_path / "out" / "in").exists()


@pytest.mark.parametrize(("status", "kept"), [("running", True), ("queued", True), ("failed", False)])
def test_an_active_run_keeps_its_folder_when_the_launcher_ends(tmp_path: Path, status: str, kept: bool):
    folder = run_of(tmp_path, status)
    with owned_output(str(tmp_path / "out"), folder.path):
        pass
    assert bool(owner_of(tmp_path / "out")) is kept


def test_a_run_whose_job_died_unrecorded_gives_its_folder_to_the_next(tmp_path: Path):
    folder = run_of(tmp_path, "running")
    with owned_output(str(tmp_path / "out"), folder.path):
        pass
    with owned_output(str(tmp_path / "out"), tmp_path / "runs" / "run-2"):
        assert folder.record().status == "lost"
        assert owner_of(tmp_path / "out").run_id == "run-2"  # type: ignore[union-attr]


def test_a_run_of_another_machine_is_left_to_it_and_the_refusal_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = run_of(tmp_path, "running", **FAR)
    (tmp_path / "out").mkdir()
    owner = replace(this_process("run-1", str(folder.path)), **FAR)
    (tmp_path / "out" / "dimba-owner.json").write_text(json.dumps(asdict(owner)))
    assert reconciled(folder).status == "running"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="run `run-1`") as refused, owned_output("out", tmp_path / "runs" / "r-2"):
        pass
    ends_it = "end that one on far: `dimba stop run-1`; if that machine is gone, `dimba stop run-1 --now` here"
    assert refused.value.hint == f"give another folder, or {ends_it}"
    planned = look_at_output("out", tmp_path).use
    assert planned is not None and planned.hint == refused.value.hint
    with pytest.raises(BadInput, match="runs on far"):
        stop_run(folder, now=False)
    assert stop_run(folder, now=True).status == "lost"
    assert owner_of(tmp_path / "out") is None


@pytest.mark.parametrize(
    ("changes", "elsewhere"),
    [
        ({}, False),
        (FAR, True),
        ({"boot": "earlier"}, False),  # this machine has restarted: its processes have ended
        ({**FAR, "runner": "slurm"}, False),  # the scheduler knows
        ({**FAR, "runner": "docker"}, True),
        ({"pids": "pid:[1]", "runner": "docker"}, False),  # the same engine
        ({"pids": "pid:[1]"}, False),  # a container that has ended, as no process holds the output folder
        ({"boot": None}, False),  # a record of an older version
    ],
)
def test_a_process_id_counts_only_where_it_was_given(tmp_path: Path, changes: dict[str, str], elsewhere: bool):
    assert is_elsewhere(run_of(tmp_path, "running", **changes).record()) is elsewhere


def test_a_living_process_of_another_container_is_left_to_it(tmp_path: Path):
    record = replace(run_of(tmp_path, "running").record(), pids="pid:[1]")
    (tmp_path / "out").mkdir()
    owned = take(tmp_path / "out", this_process("run-1"))
    assert is_elsewhere(record)
    owned.release()
    assert not is_elsewhere(record)


@pytest.mark.proof
def test_of_launches_in_the_same_instant_one_trains_and_the_others_name_it(tmp_path: Path):
    hollow_checkpoint(tmp_path / "base")
    write_rows(tmp_path / "data.jsonl", QUESTIONS)
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "job.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "dimba", "launch", "--trust-spec", "job.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    running = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE) for _ in range(3)
    ]
    said = [each.communicate()[1] for each in running]
    statuses = [each.returncode for each in running]
    assert sorted(statuses) == [0, 2, 2], said
    (run,) = (tmp_path / "runs").iterdir()
    assert all(f"in use by run `{run.name}`" in text for text, code in zip(said, statuses, strict=True) if code)
    assert (tmp_path / "out" / "starts").read_text() == "x"

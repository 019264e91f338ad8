"""What a command makes of a run whose job has ended: closed, retried, or left to the launcher that retries it."""

import json
import os
from pathlib import Path

import pytest

from dimba.common.processes import own_process
from dimba.jobs import reconcile
from dimba.jobs.reconcile import reconciled
from dimba.records import RunRecord, create_run
from dimba.records.record import Attempt, now


@pytest.fixture
def supervisors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the runs for which a supervisor was started."""
    started: list[str] = []
    monkeypatch.setattr(reconcile, "spawn_supervisor", lambda folder: started.append(folder.id))
    return started


def killed_run(place: Path, *, launcher: str | None = None, ended: str | None = None, status: str = "running"):
    """A run with one retry whose job was killed."""
    folder = create_run(place / "runs", "run-1", os.getuid(), os.getgid())
    attempt = folder.attempt(folder.new_attempt())
    (attempt / "exit.json").write_text(json.dumps({"exit_code": 137, "reason": "killed"}), encoding="utf-8")
    attempts = (Attempt(number=1, job=f"1:1:{attempt}", started=now(), ended=ended),)
    values = {"created": now(), "output_dir": str(place / "out"), "runner": "process", "retries": 1}
    record = RunRecord(id="run-1", name="run", status=status, attempts=attempts, launcher=launcher, **values)
    folder.write_record(record)
    return folder


def test_a_run_without_a_launcher_is_closed_with_what_its_trainer_learned(tmp_path: Path, supervisors: list[str]):
    folder = killed_run(tmp_path)
    (folder.attempt(1) / "exit.json").write_text('{"exit_code": 0}', encoding="utf-8")
    (folder.attempt(1) / "learning.json").write_text('{"learned": false, "cause": "no gradient"}', encoding="utf-8")
    found = reconciled(folder)
    assert (found.status, found.learned, found.learning) == ("succeeded", False, {"cause": "no gradient"})
    assert folder.record() == found and found.learning_problem == "no gradient" and not supervisors


def test_a_killed_job_without_a_launcher_is_queued_for_a_supervisor(tmp_path: Path, supervisors: list[str]):
    found = reconciled(killed_run(tmp_path))
    assert (found.status, found.attempts[0].exit_reason, supervisors) == ("queued", "killed", ["run-1"])


def test_a_killed_job_is_left_to_its_living_launcher_which_retries_it(tmp_path: Path, supervisors: list[str]):
    folder = killed_run(tmp_path, launcher=own_process())
    assert reconciled(folder).status == "running" and not supervisors


def test_an_attempt_on_record_as_ended_is_not_opened_again_by_the_job_that_is_left_of_it(
    tmp_path: Path, supervisors: list[str], monkeypatch: pytest.MonkeyPatch
):
    folder = killed_run(tmp_path, ended=now(), status="queued")
    monkeypatch.setattr("dimba.runners.process.ProcessRunner.find", lambda *_: "1:1:the container of the last attempt")
    before = folder.record()
    assert reconciled(folder) == before == folder.record() and supervisors == ["run-1"]

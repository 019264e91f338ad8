"""A run from record to close: what is on disk afterwards, and the exit status."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput, DimbaError, HostCannot, Interrupted, RunFailed
from dimba.jobs.lifecycle import Options, Run, signals
from dimba.jobs.outcome import classify_outcome
from dimba.plan.build import make_plan
from dimba.plan.model import LaunchPlan
from dimba.records import find_run
from dimba.records.record import Attempt, now
from dimba.records.store import RunFolder, create_run, new_run_id
from dimba.runners.protocol import Ending
from dimba.spec import parse_spec
from tests.memory_runner import MemoryRunner
from tests.plan.test_plan import FACTS, SPARSE


class Quiet:
    """A reporter that remembers what was said, and answers Ctrl-C as it was told to."""

    def __init__(self, stop: bool | None = None, interrupt_at: str = "") -> None:
        self.said: list[str] = []
        self.stop, self.interrupt_at = stop, interrupt_at

    def note(self, text): self.said.append(text)  # fmt: skip

    def progress(self, what, done, total): self.said.append(what)  # fmt: skip

    def rows(self, count, total=0): ...
    def started(self, record, plan): self.said.append("started")  # fmt: skip

    def ended(self): ...
    def asks_to_stop(self): return self.stop  # fmt: skip

    def line(self, text, metrics):
        self.said.append(text)
        if text and text == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)


LOADED = parse_spec(SPARSE.encode(), source="job.yaml")


def prepared(tmp_path: Path, *argv: str) -> tuple[Run, LaunchPlan]:
    facts = replace(FACTS, runs=tmp_path / "runs")
    plan = replace(
        make_plan(LOADED.spec, facts),
        argv=argv,
        output_dir=tmp_path / "out",
        writable=(tmp_path / "out",),
        host_environment=(),
        uid=os.getuid(),
        gid=os.getgid(),
    )
    return Run.create(plan, LOADED, facts, Options(), {}), plan


def follow(tmp_path: Path, reporter: Quiet, *argv: str) -> Run:
    run, plan = prepared(tmp_path, *argv)
    runner = MemoryRunner()
    with run.closing_on_failure(), signals(run.interrupt):
        run.follow(runner, run.start(runner, plan, reporter), reporter)
    return run


def test_a_run_that_ends_well_leaves_everything(tmp_path: Path):
    run = follow(tmp_path, Quiet(), "say", "hello", "0")
    folder = run.folder.path
    assert (folder / "job.yaml").read_bytes() == SPARSE.encode()
    assert json.loads((folder / "plan.json").read_text())["argv"] == ["say", "hello", "0"]
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["exit_reason"], record["exit_code"]) == ("succeeded", "completed", 0)
    assert record["attempts"][0]["exit_code"] == 0 and record["ended"]
    assert (folder / "attempts" / "1" / "log.txt").read_text() == "hello\n"
    assert json.loads((tmp_path / "out" / "dimba.json").read_text())["run_id"] == run.folder.id


LEARNING = {"learned": False, "cause": "the learning rate was 0", "changed_tensors": 0}


class Reports(MemoryRunner):
    """A job whose trainer reports what it learned."""

    report = json.dumps(LEARNING)

    def start(self, plan, *, log, **more):
        (log.parent / "learning.json").write_text(self.report, encoding="utf-8")
        return super().start(plan, log=log, **more)


@pytest.mark.parametrize(
    ("report", "learned"),
    [
        (json.dumps(LEARNING), False),
        (json.dumps({**LEARNING, "learned": True, "cause": ""}), True),
        (json.dumps({"learned": "yes"}), None),
        ("[]", None),
        (json.dumps({**LEARNING, "more": "x" * (1 << 16)}), None),  # a custom trainer may write anything
    ],
)
def test_what_the_trainer_learned_reaches_the_record_and_a_resumed_run_starts_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: str, learned: bool | None
):
    monkeypatch.setattr(Reports, "report", report)
    run, plan = prepared(tmp_path, "say", "hello", "0")
    runner, reporter = Reports(), Quiet()
    run.follow(runner, run.start(runner, plan, reporter), reporter)
    found = json.loads((run.folder.path / "run.json").read_text())
    assert (found["status"], found["learned"]) == ("succeeded", learned)
    if learned is None:
        assert found["learning"] is None
    else:
        assert {"learned": learned, **found["learning"]} == json.loads(report)
    assert run.folder.record().learning_problem == ("the learning rate was 0" if learned is False else "")
    run.start(runner, plan, reporter)
    assert (run.record.learned, run.record.learning) == (None, None)


def test_a_failed_run_has_no_verdict_on_what_it_learned(tmp_path: Path):
    run, plan = prepared(tmp_path, "say", "hello", "1")
    runner, reporter = Reports(), Quiet()
    with pytest.raises(RunFailed):
        run.follow(runner, run.start(runner, plan, reporter), reporter)
    assert run.folder.record().learned is None


def test_a_trainer_that_fails_is_exit_1_and_its_own_status_is_on_record(tmp_path: Path):
    with pytest.raises(RunFailed, match="exited with status 3") as raised:
        follow(tmp_path, Quiet(), "say", "boom", "3")
    assert raised.value.exit_status == 1
    record = find_run(tmp_path / "runs", "sft-lora").record()
    assert (record.status, record.exit_reason, record.exit_code) == ("failed", "trainer_error", 3)


@pytest.mark.parametrize(
    ("status", "retries", "queued"), [("137", 1, True), ("137", 0, False), ("1", 1, False), ("143", 1, False)]
)
def test_between_two_attempts_a_run_is_queued_and_never_on_record_as_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, retries: int, queued: bool
):
    run, plan = prepared(tmp_path, "say", "hello", status)
    run.update(retries=retries)
    written: list[str] = []
    monkeypatch.setattr(RunFolder, "write_record", lambda _folder, record: written.append(record.status))
    runner, reporter = MemoryRunner(), Quiet()
    job = run.start(runner, plan, reporter)
    if queued:
        assert run.follow(runner, job, reporter) is not None
    else:
        with pytest.raises(RunFailed):
            run.follow(runner, job, reporter)
    others = {"queued", "starting", "running"}
    assert (run.record.status == "queued") is queued and (set(written) <= others) is queued
    assert run.record.attempts[-1].exit_reason in ("killed", "trainer_error", "stopped_by_user")
    if queued:
        assert run.record.waits_for == "attempt 2 of 2, as the last one ended: killed"
        assert (run.record.exit_reason, run.record.exit_code, run.record.ended) == (None, None, None)
        ended = run.record.closed("failed", "start_failed", None)  # the next one was refused
        assert ended.attempts == run.record.attempts and ended.waits_for is None


def test_ctrl_c_stops_the_job_where_nobody_can_be_asked(tmp_path: Path):
    reporter = Quiet(stop=None, interrupt_at="ready")
    with pytest.raises(Interrupted):
        follow(tmp_path, reporter, "wait", "ready", "143")
    record = find_run(tmp_path / "runs", "sft-lora").record()
    assert (record.status, record.exit_reason, record.exit_code) == ("stopped", "stopped_by_user", 143)
    assert any(text.startswith("stopping") for text in reporter.said)


def test_ctrl_c_may_leave_the_job_running(tmp_path: Path):
    with pytest.raises(Interrupted, match="left running"):
        follow(tmp_path, Quiet(stop=False, interrupt_at="ready"), "wait", "ready", "0")
    assert find_run(tmp_path / "runs", "sft-lora").record().status == "running"


def test_a_run_that_does_not_start_is_closed(tmp_path: Path):
    run, plan = prepared(tmp_path, "say", "hello", "0")

    class Broken(MemoryRunner):
        def start(self, plan, **_):
            raise HostCannot("no such device", "plug it in")

    with pytest.raises(HostCannot), run.closing_on_failure():
        run.start(Broken(), plan, Quiet())
    record = run.folder.record()
    assert (record.status, record.exit_reason) == ("failed", "start_failed")


@pytest.mark.parametrize(
    ("ending", "reason", "status"),
    [
        (Ending(0), "completed", None),
        (Ending(1), "trainer_error", 1),
        (Ending(2), "trainer_error", 1),
        (Ending(83), "trainer_error", 1),
        (Ending(137), "killed", 1),
        (Ending(137, out_of_memory=True), "out_of_memory", 1),
        (Ending(1, out_of_memory=True), "out_of_memory", 1),
        (Ending(143), "stopped_by_user", 1),
        (Ending(143, engine_restarted=True), "engine_lost", 1),
        (Ending(137, engine_restarted=True), "engine_lost", 1),
        (None, "container_missing", 1),
    ],
)
def test_endings_are_told_apart(tmp_path: Path, ending: Ending | None, reason: str, status: int | None):
    _, told, error = classify_outcome(ending, RunFolder(tmp_path, 0, 0), stopping=False)
    assert told == reason
    assert (error.exit_status if isinstance(error, DimbaError) else None) == status


def test_records_of_other_versions_are_read(tmp_path: Path):
    folder = create_run(tmp_path, new_run_id("name"), os.getuid(), os.getgid())
    (folder.path / "run.json").write_text(
        json.dumps(
            {"id": folder.id, "name": "name", "new": 1, "exit_reason": "new", "attempts": [{"number": 1, "x": 2}]}
        )
    )
    assert folder.record().exit_reason == "new"


def test_a_run_is_found_by_id_start_and_name(tmp_path: Path):
    first, second = (prepared(tmp_path, "say", "x", "0")[0].folder for _ in range(2))
    runs = tmp_path / "runs"
    assert find_run(runs, first.id) == first
    assert find_run(runs, second.id[:-1] if second.id[:-1] != first.id[:-1] else second.id) == second
    assert find_run(runs, "sft-lora") == second
    with pytest.raises(DimbaError, match="no run `other`"):
        find_run(runs, "other")


def test_a_refusal_of_an_earlier_attempt_is_not_held_against_a_later_one(tmp_path: Path):
    refusal = {"exit_code": 2, "reason": "refused", "message": "line 3 is bad", "hint": "mend it", "status": 2}
    for number in (1, 2):
        (tmp_path / "attempts" / str(number)).mkdir(parents=True)
    folder = RunFolder(tmp_path, 0, 0)
    (tmp_path / "attempts/2/exit.json").write_text(json.dumps(refusal), encoding="utf-8")
    status, reason, error = classify_outcome(Ending(2), folder, stopping=False)
    assert (status, reason, str(error)) == ("failed", "start_failed", "line 3 is bad\n\nhint: mend it")
    (tmp_path / "attempts/2/exit.json").rename(tmp_path / "attempts/1/exit.json")
    assert classify_outcome(Ending(2), folder, stopping=False)[1] == "trainer_error"


WORD = {"reason": "refused", "message": "a.jsonl:3: no\nanswer", "hint": "correct it", "status": 2, "exit_code": 2}
TOLD = "error: a.jsonl:3: no\nanswer\n\nhint: correct it"


class Speaks(MemoryRunner):
    """A job that leaves its own word before it says so."""

    def start(self, plan, *, log, **more):
        for name in ("word.json", "exit.json"):
            (log.parent / name).write_text(json.dumps(WORD), encoding="utf-8")
        return super().start(plan, log=log, **more)


@pytest.mark.parametrize(
    ("text", "status", "shown"),
    [
        (f"look\n{TOLD}\nbye", "2", ["look", "bye"]),
        (f"look\nerror: another\n{TOLD}", "2", ["look", "error: another"]),
        (f"look\n{TOLD}", "3", ["look", *TOLD.split("\n")]),  # it was not that which ended it
        (f"look\n{TOLD}", "0", ["look", *TOLD.split("\n")]),
    ],
)
def test_a_refusal_is_shown_once(tmp_path: Path, text: str, status: str, shown: list[str]):
    run, plan = prepared(tmp_path, "say", text, status)
    runner, reporter = Speaks(), Quiet()
    job = run.start(runner, plan, reporter)
    try:
        run.follow(runner, job, reporter)
    except DimbaError as error:
        assert (str(error) == str(BadInput(WORD["message"], WORD["hint"]))) == (status == "2")
    assert reporter.said[reporter.said.index("look") :] == shown
    assert TOLD in run.folder.log(1).read_text(encoding="utf-8")


def test_a_job_whose_program_may_not_be_executed_has_not_started(tmp_path: Path):
    run, _ = prepared(tmp_path)
    log = run.folder.log(run.folder.new_attempt())
    run.update(attempts=(Attempt(number=1, started=now()),))
    log.write_text("srun: error: n0\nenv: ‘/root/python’: Permission denied\n", encoding="utf-8")
    status, reason, error = classify_outcome(Ending(126), run.folder, stopping=False)
    assert (status, reason) == ("failed", "start_failed") and isinstance(error, HostCannot)
    assert "could not be started\n  | env: ‘/root/python’: Permission denied" in error.message

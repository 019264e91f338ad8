"""`dimba watch`: a view that fits the terminal, lines on a pipe, and an end that follows the run's."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pexpect
import pyte
import pytest
from rich.console import Console, Group

from dimba.cli.plots import plot
from dimba.cli.watch import _view
from dimba.commands.watch import Sight, watch
from dimba.jobs.metrics import joined_metrics
from dimba.jobs.next_steps import next_steps
from dimba.records import RunFolder
from tests.commands.report.runs import curve, write_lines, write_run
from tests.conftest import REPOSITORY, Dimba

ELSEWHERE = {"host": "another", "boot": "another", "ended": None, "exit_reason": None, "exit_code": None}


def running(runs: Path, steps: int = 30) -> RunFolder:
    """A run of another machine, whose processes nothing here looks for."""
    return write_run(runs, attempts=[curve(1, steps, total=100)], status="running", **ELSEWHERE)  # type: ignore[arg-type]


def sight_of(folder: RunFolder) -> Sight:
    return next(filter(None, watch(folder)))


def shown(sight: Sight, width: int, *, encoding: str = "utf-8") -> list[str]:
    class Terminal(Console):
        @property
        def encoding(self) -> str:
            return encoding

    console = Terminal(width=width, force_terminal=True, no_color=True, record=True, file=io.StringIO())
    console.print(Group(*_view(sight, console)))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [200, 80, 40, 20])
def test_every_line_fits_the_terminal(tmp_path: Path, width: int):
    run = running(tmp_path)
    samples = [{"step": 20, "prompt": "What colour? " * 9, "completion": "Blue\n" * 30, "reward": 0.5}]
    write_lines(run.path / "attempts/1/samples.jsonl", samples)
    lines = shown(sight_of(run), width)
    assert len(lines) > 8 and max(map(len, lines)) <= width


def test_it_shows_progress_time_left_loss_and_speed(tmp_path: Path):
    text = "\n".join(shown(sight_of(running(tmp_path)), 80))
    assert "running" in text and "step 30/100  ETA 0:00:35" in text  # half a second a step
    assert "loss " in text and "█" in text and "tokens/s" in text


def test_memory_stands_beside_its_estimate(tmp_path: Path):
    sight = replace(sight_of(running(tmp_path)), estimated_memory=21 << 30)
    sight = replace(sight, metrics=replace(sight.metrics, peak_memory=20 << 30))
    assert "GPU       20.0 GiB at its peak, 21.0 GiB estimated" in shown(sight, 80)


def test_a_terminal_without_blocks_gets_plain_characters(tmp_path: Path):
    text = "\n".join(shown(sight_of(running(tmp_path)), 80, encoding="ascii"))
    assert "|" in text and not set(text) & set("█━─")


def test_a_plot_has_its_highest_value_at_the_top_and_shows_the_lowest():
    assert plot([0, 1, 2, 3], 4, 1, blocks=True) == ["▁▃▆█"]
    top, bottom = plot([0, 10], 2, 2, blocks=True)
    assert top == " █" and bottom == "▁█"
    assert len(plot(list(range(1000)), 30, 3, blocks=False)[0]) == 30
    assert plot([5.0, 5.0], 9, 1, blocks=True) == ["▁▁"]


def test_a_run_that_has_ended_shows_its_end_at_once(tmp_path: Path, dimba: Dimba):
    write_run(tmp_path / "runs", attempts=[curve(1, 30)])
    done = dimba("watch", "first", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("succeeded  step 30/30  loss ") and done.stdout.count("\n") == 1
    assert "succeeded, completed" in done.stderr and "`dimba report first" in done.stderr


@pytest.mark.parametrize("status", ["failed", "stopped", "lost"])
def test_a_run_that_did_not_succeed_ends_with_status_one(tmp_path: Path, dimba: Dimba, status: str):
    write_run(tmp_path / "runs", attempts=[curve(1, 3)], status=status, exit_reason="killed")
    done = dimba("watch", "first", cwd=tmp_path)
    assert done.returncode == 1 and f"{status}, killed" in done.stderr
    assert "dimba logs" in done.stderr and "dimba chat" not in done.stderr


def test_a_run_that_does_not_exist_is_refused(tmp_path: Path, dimba: Dimba):
    done = dimba("watch", "other", cwd=tmp_path)
    assert done.returncode == 2 and "no run `other`" in done.stderr


def test_it_follows_a_run_to_its_end(tmp_path: Path, dimba: Dimba):
    run = running(tmp_path / "runs")

    def finish() -> None:
        time.sleep(0.5)
        with (run.path / "attempts/1/metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 31, "max_steps": 100, "loss": 0.25}) + "\n")
        run.write_record(replace(run.record(), status="succeeded", exit_reason="completed"))

    threading.Thread(target=finish).start()
    done = dimba("watch", "first", "--json", cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["running", "succeeded"] and done.returncode == 0
    assert lines[-1]["step"] == 31 and lines[-1]["last"]["loss"] == 0.25


@pytest.mark.proof
def test_a_terminal_shows_the_newest_state_and_then_the_end(tmp_path: Path):
    run = running(tmp_path / "runs")
    screen = pyte.Screen(80, 30)
    stream = pyte.ByteStream(screen)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "LANG": "C.UTF-8"}
    words = ["-m", "dimba", "watch", "first"]
    child = pexpect.spawn(sys.executable, words, cwd=tmp_path, env=environment, dimensions=(30, 80), timeout=20)

    def until(text: str) -> str:
        for _ in range(100):
            with suppress(pexpect.TIMEOUT, pexpect.EOF):
                stream.feed(child.read_nonblocking(65_536, 0.2))
            if text in "\n".join(screen.display):
                break
        return "\n".join(screen.display)

    assert "ETA 0:00:35" in until("step 30/100")
    with (run.path / "attempts/1/metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 31, "max_steps": 100, "loss": 0.25}) + "\n")
    text = until("step 31/100")
    assert "loss 0.25" in text and text.count("step 3") == 1
    run.write_record(replace(run.record(), status="succeeded", exit_reason="completed"))
    text = until("dimba export")
    assert "succeeded, completed" in text and text.count("step 31/100") == 1
    child.wait()
    assert child.exitstatus == 0


def test_ctrl_c_leaves_the_run_alone(tmp_path: Path):
    run = running(tmp_path / "runs")
    before = (run.path / "run.json").read_bytes()
    command = [sys.executable, "-m", "dimba", "watch", "first"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline().startswith("running")
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "dimba stop" in err and "Traceback" not in err
    assert (run.path / "run.json").read_bytes() == before


def test_the_time_left_is_unknown_before_a_second_step_and_after_the_end(tmp_path: Path):
    sight = sight_of(running(tmp_path, steps=1))
    assert sight.seconds_left is None
    ended = write_run(tmp_path, "second-1", attempts=[curve(1, 30, total=100)])
    assert sight_of(ended).seconds_left is None


def test_the_time_left_counts_the_newest_attempts_pace_alone(tmp_path: Path):
    slow = [{"step": n, "max_steps": 100, "loss": 1.0, "elapsed": n * 60.0} for n in range(1, 51)]
    quick = [{"step": n, "max_steps": 100, "loss": 1.0, "elapsed": (n - 50) * 1.0} for n in range(51, 61)]
    run = write_run(tmp_path, attempts=[slow, quick], status="running", **ELSEWHERE)  # type: ignore[arg-type]
    assert sight_of(run).seconds_left == pytest.approx(40)


def test_next_come_the_report_and_the_model_or_for_a_failure_the_log_and_the_resume(tmp_path: Path):
    record = write_run(tmp_path, output_dir=str(tmp_path / "out")).record()
    named = [step.command.split()[1] for step in next_steps(record)]
    assert named == ["report", "chat", "export"]
    assert next_steps(record)[2].command.endswith("--merged")
    assert "--merged" not in next_steps(replace(record, method="full"))[2].command
    failed = replace(record, status="failed")
    assert [step.command.split()[1] for step in next_steps(failed)] == ["logs", "report"]
    checkpoint = tmp_path / "out" / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"1234")
    (checkpoint / "dimba-whole.json").write_text('{"files": {"model.safetensors": 4}}', encoding="utf-8")
    assert [step.command.split()[1] for step in next_steps(failed)] == ["logs", "resume", "report"]
    assert joined_metrics(write_run(tmp_path, "empty-1")).last_step == 0

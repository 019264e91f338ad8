"""The command as a user runs it, without an engine: its output on each stream, and its exit status."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimba.cli import main
from tests.conftest import NO_ENGINE, QUESTIONS, Dimba, pretend_gpus, write_rows

AS_A_PROCESS = ("--trust-spec", "--runner", "process")  # a custom trainer never runs as a process by default


def edit(job: Path, old: str, new: str) -> None:
    text = (job / "job.yaml").read_text(encoding="utf-8")
    assert old in text
    (job / "job.yaml").write_text(text.replace(old, new), encoding="utf-8")


def test_validate_prints_every_problem_of_every_file(job: Path, dimba: Dimba):
    edit(job, "method: lora", "mehtod: lora")
    (job / "other.yaml").write_text("version: 1\nversion: 1\n", encoding="utf-8")
    done = dimba("validate", "job.yaml", "other.yaml", cwd=job)
    assert done.returncode == 2
    assert "job.yaml:5: mehtod: unknown key; did you mean `method`?" in done.stderr
    assert "other.yaml:2: version: given twice" in done.stderr
    assert done.stdout == ""


def test_validate_reads_nothing_but_the_spec(tmp_path: Path, job: Path, new_dimba: Dimba):
    (tmp_path / "alone").mkdir()
    (job / "job.yaml").rename(tmp_path / "alone" / "job.yaml")
    assert new_dimba("validate", "job.yaml", cwd=tmp_path / "alone", **NO_ENGINE).returncode == 0
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["job.yaml"]


def test_schema_is_json_on_stdout(tmp_path: Path, dimba: Dimba):
    assert json.loads(dimba("schema", cwd=tmp_path).stdout)["properties"]["mode"]


def test_plan_prints_the_launch_plan_and_writes_no_file(job: Path, dimba: Dimba):
    done = dimba("plan", "job.yaml", "--json", cwd=job, **NO_ENGINE)
    plan = json.loads(done.stdout)
    assert plan["runner"] == "process" and plan["image"] is None and plan["gpus"] == []
    assert str(job / "base") in plan["argv"]
    assert sorted(path.name for path in job.iterdir()) == ["base", "data.jsonl", "job.yaml"]


def test_plan_prints_data_and_steps_without_colour_on_a_pipe(job: Path, dimba: Dimba):
    done = dimba("plan", "job.yaml", cwd=job, **NO_ENGINE)
    assert "question/answer, 12 rows" in done.stdout
    assert "4 rows per step, 1 process; 3 per epoch, 3 in total" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


MISTAKES = {
    "a missing checkpoint": (lambda job: (job / "base").rename(job / "gone"), 2, ["Hub"], []),
    "a missing folder": (
        lambda job: edit(job, "checkpoint: base", "checkpoint: ./b"),
        2,
        ["job.yaml:3", "does not exist"],
        [],
    ),
    "no config.json": (
        lambda job: (job / "base" / "config.json").unlink(),
        2,
        ["job.yaml:3", "has no config.json"],
        [],
    ),
    "a missing data file": (
        lambda job: (job / "data.jsonl").unlink(),
        2,
        ["job.yaml:4", "data.jsonl does not exist"],
        [],
    ),
    "a broken line": (
        lambda job: (job / "data.jsonl").open("a").write('{"question": "Q"\n'),
        2,
        ["data.jsonl:13: not valid JSON"],
        [],
    ),
    "two GPUs too many": (lambda job: edit(job, "gpus: none", "gpus: 4"), 3, ["asked for 4", "2 (", "gpus: all"], []),
    "a GPU of none": (
        lambda job: edit(job, "gpus: none", "gpus: [0]"),
        3,
        ["asked for GPU 0", "none ("],
        ["FAKE_GPUS"],
    ),
    "no engine": (lambda job: None, 4, ["no container engine answers", "runner: process"], ["--runner"]),
    "a read-only output folder": (lambda job: edit(job, "dir: out", "dir: /proc/x"), 3, ["/proc"], []),
    "the current folder as output": (
        lambda job: edit(job, "dir: out", "dir: ."),
        2,
        ["job.yaml:7", "is the folder that dimba is run in"],
        [],
    ),
    "a file that the job's user may not read": (
        lambda job: (os.chown(job, 1234, 1234), (job / "data.jsonl").chmod(0o600)),
        3,
        ["user 1234", "may not read", "chmod a+r"],
        [],
    ),
    "an output folder with a model": (
        lambda job: (job / "out").mkdir() or (job / "out" / "config.json").touch(),
        2,
        ["already holds a model", "--set output_dir="],
        [],
    ),
    "a variable that is not set": (
        lambda job: (job / "job.yaml").open("a").write("container: {env: [NOT_SET_HERE]}\n"),
        2,
        ["`NOT_SET_HERE` is not set here", "export NOT_SET_HERE="],
        [],
    ),
    "a secret too short to be masked": (
        lambda job: (job / "job.yaml").open("a").write("container: {env: [WANDB_API_KEY]}\n"),
        2,
        ["job.yaml:9: container.env", "fewer than 8 characters"],
        ["WANDB_API_KEY"],
    ),
    "a flag that the trainer lacks": (
        lambda job: (job / "job.yaml").open("a").write("trainer_args: {save-step: 3}\n"),
        2,
        ["no flag `--save-step`", "did you mean `save-steps`?"],
        [],
    ),
    "an unknown trainer": (
        lambda job: (job / "job.yaml").open("a").write("trainer: mine.py\n"),
        2,
        ["no trainer found: `mine.py`"],
        [],
    ),
    "an unknown reward": (
        lambda job: edit(job, "mode: sft", "mode: grpo\ntrainer_args: {reward: numerik}"),
        2,
        ["trainer_args.reward: there is no reward `numerik`", "did you mean `numeric`?"],
        [],
    ),
    "a missing reward function": (
        lambda job: edit(job, "mode: sft", "mode: grpo\ntrainer_args: {reward: mine.py:score}"),
        2,
        ["trainer_args.reward: ", "mine.py does not exist"],
        [],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_starts(job: Path, dimba: Dimba, mistake: str):
    make, status, messages, options = MISTAKES[mistake]
    if "user 1234" in messages and os.geteuid() != 0:
        pytest.skip("only root runs jobs as another user")
    make(job)
    environment = {**NO_ENGINE, **pretend_gpus(job / "tools")}
    environment |= {name: value for name, value in (("FAKE_GPUS", "none"), ("WANDB_API_KEY", "abc")) if name in options}
    arguments = ["--runner", "docker"] if "--runner" in options else []
    if mistake == "a missing checkpoint":  # `base` alone may be a Hub id, which only the trainer resolves
        edit(job, "checkpoint: base", "checkpoint: a/b/c")
    done = dimba("launch", "job.yaml", *arguments, cwd=job, **environment)
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("error: ") and "hint: " in done.stderr
    for text in messages:
        assert text in done.stderr
    assert not (job / "runs").exists() and done.stdout == ""


def test_all_problems_are_reported_at_once(job: Path, dimba: Dimba):
    (job / "base" / "config.json").unlink()
    (job / "data.jsonl").unlink()
    done = dimba("plan", "job.yaml", cwd=job, **NO_ENGINE)
    assert done.returncode == 2
    assert "job.yaml:3: base_checkpoint:" in done.stderr and "job.yaml:4: dataset:" in done.stderr


def test_an_override_is_validated_and_applied(job: Path, dimba: Dimba):
    assert "training.max_step: unknown key" in dimba("plan", "job.yaml", "--set", "training.max_step=1", cwd=job).stderr
    plan = json.loads(dimba("plan", "job.yaml", "--json", "--set", "training.max_steps=9", cwd=job, **NO_ENGINE).stdout)
    assert plan["argv"][plan["argv"].index("--max-steps") + 1] == "9"


def test_a_failing_trainer_exits_with_1_and_its_own_status_is_in_run_json(job: Path, dimba: Dimba):
    trainer = job / "mine.py"
    trainer.write_text(
        "import argparse, sys\np = argparse.ArgumentParser()\n"
        "for f in ('--model', '--dataset', '--use-lora'): p.add_argument(f, nargs='?')\n"
        "p.parse_args()\nprint('working')\nsys.exit(3)\n",
        encoding="utf-8",
    )
    (job / "job.yaml").open("a").write("trainer: mine.py\n")
    done = dimba("launch", "job.yaml", *AS_A_PROCESS, cwd=job, **NO_ENGINE)
    assert done.returncode == 1, done.stderr
    assert "exited with status 3" in done.stderr and "dimba logs" in done.stderr
    assert "working" in done.stdout
    (run,) = json.loads(dimba("ps", "-a", "--json", cwd=job).stdout)
    assert (run["status"], run["exit_reason"], run["exit_code"]) == ("failed", "trainer_error", 3)
    assert "working" in dimba("logs", run["id"], cwd=job).stdout
    assert "no run is active; `dimba ps -a` lists 1" in dimba("ps", cwd=job).stderr


def test_a_second_run_may_not_share_the_output_of_an_active_one_which_another_process_can_stop(job: Path, dimba: Dimba):
    (job / "mine.py").write_text(
        "import argparse, signal, sys, time\np = argparse.ArgumentParser()\n"
        "for f in ('--model', '--dataset', '--use-lora'): p.add_argument(f, nargs='?')\n"
        "p.parse_args()\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
        "print('ready', flush=True)\ntime.sleep(60)\n",
        encoding="utf-8",
    )
    (job / "job.yaml").open("a").write("trainer: mine.py\n")
    run = dimba("launch", "job.yaml", *AS_A_PROCESS, "--detach", cwd=job, **NO_ENGINE).stdout.split()[-1]
    log = job / "runs" / run / "attempts" / "1" / "log.txt"
    for _ in range(300):
        if "ready" in log.read_text():
            break
        time.sleep(0.1)
    second = dimba("launch", "job.yaml", *AS_A_PROCESS, cwd=job, **NO_ENGINE)
    assert second.returncode == 2 and f"is in use by run `{run}`" in second.stderr
    assert f"{run}: stopped, stopped_by_user" in dimba("stop", run, cwd=job, **NO_ENGINE).stderr
    assert log.read_text() == "ready\nsaved\n"
    again = dimba("stop", run, cwd=job, **NO_ENGINE)
    assert again.returncode == 2 and "does not run" in again.stderr


@pytest.mark.parametrize("bad", ["{", "[]", '{"id": "x", "name": 5, "status": "failed"}', '{"created": "then"}'])
def test_one_broken_record_does_not_hide_the_others(job: Path, dimba: Dimba, bad: str):
    for name in ("good", "bad"):
        (job / "runs" / name).mkdir(parents=True)
        (job / "runs" / name / "job.yaml").touch()
    record = {"id": "good", "name": "good", "status": "failed", "created": "2026-01-01T00:00:00+00:00"}
    (job / "runs" / "good" / "run.json").write_text(json.dumps(record))
    (job / "runs" / "bad" / "run.json").write_text(bad)
    done = dimba("ps", "-a", cwd=job)
    assert done.returncode == 0 and "good" in done.stdout and "bad/run.json: not a run record" in done.stderr


def test_a_full_disk_behind_stdout_is_an_error_without_a_traceback(job: Path, dimba: Dimba):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "dimba", "schema"]
        done = subprocess.run(command, cwd=job, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_a_token_that_the_spec_does_not_name_does_not_reach_the_job(job: Path, dimba: Dimba):
    (job / "mine.py").write_text(
        "import argparse, os\np = argparse.ArgumentParser()\n"
        "for f in ('--model', '--dataset', '--use-lora'): p.add_argument(f, nargs='?')\n"
        "p.parse_args()\nprint('token:', os.environ.get('HF_TOKEN'))\n",
        encoding="utf-8",
    )
    (job / "job.yaml").open("a").write("trainer: mine.py\n")
    assert (
        "token: None" in dimba("launch", "job.yaml", *AS_A_PROCESS, cwd=job, HF_TOKEN="hush-hush", **NO_ENGINE).stdout
    )


def test_the_error_of_a_trainer_whose_help_crashes_is_quoted(job: Path, dimba: Dimba):
    (job / "mine.py").write_text("import no_such_module\n", encoding="utf-8")
    (job / "job.yaml").open("a").write("trainer: mine.py\n")
    done = dimba("launch", "job.yaml", *AS_A_PROCESS, cwd=job, **NO_ENGINE)
    assert done.returncode == 2 and "No module named 'no_such_module'" in done.stderr


def test_dimba_runs_names_another_folder_of_runs(job: Path, tmp_path: Path, dimba: Dimba):
    done = dimba("ps", "-a", "--json", cwd=job, DIMBA_RUNS=str(tmp_path / "elsewhere"))
    assert json.loads(done.stdout) == []


def test_logs_of_an_unknown_run_point_to_dimba_ps(job: Path, dimba: Dimba):
    done = dimba("logs", "nothing", cwd=job)
    assert done.returncode == 2 and "dimba ps -a" in done.stderr


def test_doctor_without_an_engine_reports_an_error_and_its_fix(tmp_path: Path, dimba: Dimba):
    done = dimba("doctor", "--json", cwd=tmp_path, **NO_ENGINE)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 4
    assert checks["engine"]["status"] == "error" and "systemctl start docker" in checks["engine"]["fix"]


def test_an_engine_on_another_machine_is_refused(job: Path, dimba: Dimba):
    done = dimba("launch", "job.yaml", cwd=job, DOCKER_HOST="ssh://user@example.invalid")
    assert done.returncode == 4 and "mount its own folders" in done.stderr


def test_a_data_file_that_fits_two_formats_is_refused(job: Path, dimba: Dimba):
    write_rows(job / "data.jsonl", [{**QUESTIONS[0], "prompt": "P", "response": "R"}])
    done = dimba("plan", "job.yaml", cwd=job, **NO_ENGINE)
    assert done.returncode == 2 and "equally well" in done.stderr and "dataset.columns" in done.stderr


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_ps_cuts_no_word_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from dimba.cli.render import show_runs
    from dimba.records import RunRecord

    monkeypatch.setenv("COLUMNS", str(width))
    run = "finetune_sft_lora-20261128-193719-2b3e"
    show_runs([RunRecord(id=run, name="x", status="succeeded", exit_reason="completed", runner="process")])
    printed = capsys.readouterr().out
    assert all(word in printed for word in (run, "succeeded", "completed", "process")) and "…" not in printed
    assert ("RUNNER" in printed) == (width >= 80)


def test_an_encoding_that_cannot_name_a_file_is_reported(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("dimba.cli._run", lambda _args: "/data/ü".encode("ascii"))
    assert main(["ps"]) == 3
    assert "this environment's encoding, ascii, cannot name `'/data/\\xfc'`" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("generate", "x", "--file", "y"), ("eval", "x")])
def test_a_batch_without_rows_is_refused_by_the_command_line(command: tuple[str, ...], capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--batch-size", "0"])
    assert ended.value.code == 2 and "argument --batch-size: 0 is less than 1" in capsys.readouterr().err

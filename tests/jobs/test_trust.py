"""A stranger's spec: what it brings along is named and agreed to before any of it is executed."""

import json
import os
import socket
import sys
from pathlib import Path

import pexpect
import pytest

from dimba.common.errors import BadInput
from dimba.common.project import project_root
from dimba.host.facts import TrustRequirement
from dimba.host.trust_requirements import find_trust_requirements, not_overridden
from dimba.jobs.trust import remember_run, remember_written, require_trust, require_trust_in_run, trust_requirements_of
from dimba.spec import LoadedSpec, parse_spec
from tests.conftest import NO_ENGINE, REPOSITORY, Dimba

SPARSE = "version: 1\nmode: sft\nbase_checkpoint: base\ndataset: {path: data.jsonl}\nmethod: lora\noutput_dir: out\n"
MARKS = """\
import argparse, pathlib
pathlib.Path(__file__).with_name("ran").touch()
p = argparse.ArgumentParser()
for f in ("--model", "--dataset", "--use-lora"): p.add_argument(f, nargs="?")
p.parse_args()
print("working")
"""


def parsed(added: str = "", *overrides: str) -> LoadedSpec:
    return parse_spec((SPARSE + added).encode(), source="job.yaml", overrides=overrides)


def found(folder: Path, added: str, *overrides: str) -> list[TrustRequirement]:
    loaded = parsed(added, *overrides)
    return list(not_overridden(find_trust_requirements(loaded.spec, folder, project_root()), overrides))


def stranger(job: Path) -> None:
    (job / "mine.py").write_text(MARKS, encoding="utf-8")
    with (job / "job.yaml").open("a", encoding="utf-8") as file:
        file.write("trainer: mine.py\n")


BRINGS = {
    "trainer: mine.py": ("trainer", "mine.py, which is not part of dimba"),
    "mode: grpo\ntrainer_args: {reward: [numeric, 'score.py:reward']}": (
        "trainer_args.reward",
        "score.py, which is not",
    ),
    "trainer_args: {trust-remote-code: true}": ("trainer_args.trust-remote-code", "code that the checkpoint contains"),
    "trainer_args: {trust_remote_code: 'yes'}": ("trainer_args.trust_remote_code", "code that the checkpoint contains"),
    "trainer_args: {allow-pickle: true}": ("trainer_args.allow-pickle", "pickled"),
    "container: {image: somebody/elses}": ("container.image", "`somebody/elses`"),
    "container: {base_image: somebody/elses}": ("container.base_image", "`somebody/elses`"),
    "container: {env: [AWS_PROFILE]}": ("container.env", "receives AWS_PROFILE"),
    "container: {env: ['HF_ENDPOINT=http://evil']}": ("container.env", "sets HF_ENDPOINT"),
    "container: {network: host}": ("container.network", "listen only on this machine"),
    "container: {mounts: [/srv]}": ("container.mounts", "`/srv` exposes more"),
}


@pytest.mark.parametrize("added", BRINGS)
def test_what_could_do_harm_is_found_and_named(tmp_path: Path, added: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_PROFILE", "mine")
    for name in ("mine.py", "score.py"):
        (tmp_path / name).touch()
    key, what = BRINGS[added]
    text = SPARSE.replace("mode: sft\n", "") if added.startswith("mode") else SPARSE
    spec = parse_spec(f"{text}{added}\n".encode(), source="x").spec
    (requirement,) = find_trust_requirements(spec, tmp_path, project_root())
    assert requirement.key == key and what in requirement.what and not requirement.grave


@pytest.mark.parametrize(
    "added",
    [
        "",
        "trainer: scripts/finetuning/finetune_sft.py\n",
        "container: {env: [HF_TOKEN, WANDB_API_KEY, NCCL_DEBUG, OMP_NUM_THREADS, TENSORBOARD_LOGDIR]}\n",
        "trainer_args: {trust-remote-code: false, reward: numeric}\n",
        "runner: process\n",
    ],
)
def test_an_ordinary_spec_brings_nothing_along(tmp_path: Path, added: str):
    assert not found(tmp_path, added)


def test_a_trainer_that_the_folder_brings_along_is_not_dimbas(tmp_path: Path):
    usual = tmp_path / "scripts" / "finetuning" / "finetune_sft.py"
    usual.parent.mkdir(parents=True)
    usual.touch()
    (requirement,) = found(tmp_path, "")
    assert requirement.key == "trainer" and str(usual) in requirement.what


def test_sockets_are_told_in_so_many_words(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        (own,) = found(tmp_path, "container: {mounts: [./s]}\n")
    assert own.grave and "socket" in own.what
    for mount in ("/var/run/docker.sock", "/run:/x:rw", "/", "/var/../run/docker.sock"):
        (requirement,) = found(tmp_path, f"container: {{mounts: ['{mount}']}}\n")
        assert requirement.grave and "root's rights" in requirement.what


def test_a_process_holds_nothing_back_and_that_is_said(tmp_path: Path):
    (tmp_path / "mine.py").touch()
    assert [each.key for each in found(tmp_path, "trainer: mine.py\nrunner: process\n")] == ["trainer", "runner"]


@pytest.mark.parametrize("override", ["trainer=mine.py", "output_store=s3://bucket/x"])
def test_the_runner_needs_no_trust_for_what_the_user_has_set(tmp_path: Path, override: str):
    (tmp_path / "mine.py").touch()
    assert not found(tmp_path, "runner: process\n", override)
    more = found(tmp_path, "runner: process\ntrainer_args: {trust-remote-code: true}\n", override)
    assert [each.key for each in more] == ["trainer_args.trust-remote-code", "runner"]


def test_what_the_command_line_says_is_its_authors_own(tmp_path: Path):
    (tmp_path / "mine.py").touch()
    assert not found(tmp_path, "", "trainer=mine.py", "runner=process", "container={image: x, env: [HOME]}")
    assert [each.key for each in found(tmp_path, "trainer: mine.py\n", "container.image=x")] == ["trainer"]


def test_it_is_asked_once_for_a_files_content(tmp_path: Path):
    (tmp_path / "mine.py").touch()
    asked: list[str] = []

    def yes(source: str, requirements: object) -> bool:
        asked.append(source)
        return True

    for added in ("", "", "# edited\n"):
        require_trust(parsed(f"trainer: mine.py\n{added}"), tmp_path, trust=False, ask=yes)
    assert asked == ["job.yaml", "job.yaml"]


def test_an_answer_holds_for_what_was_named_not_for_another_folders_trainer(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").touch()
    loaded = parsed("trainer: mine.py\n# of two folders\n")
    require_trust(loaded, tmp_path / "a", trust=False, ask=lambda *_: True)
    require_trust(loaded, tmp_path / "a", trust=False, ask=None)
    with pytest.raises(BadInput, match=r"b/mine\.py"):
        require_trust(loaded, tmp_path / "b", trust=False, ask=None)


def test_no_is_no_and_the_flag_is_for_one_time(tmp_path: Path):
    (tmp_path / "mine.py").touch()
    loaded = parsed("trainer: mine.py\n# no\n")
    with pytest.raises(BadInput) as raised:
        require_trust(loaded, tmp_path, trust=False, ask=lambda *_: False)
    assert "job.yaml:7: trainer: " in raised.value.message and "--trust-spec" in raised.value.hint
    require_trust(loaded, tmp_path, trust=True, ask=None)
    with pytest.raises(BadInput):
        require_trust(loaded, tmp_path, trust=False, ask=None)


def test_what_the_wizard_wrote_is_trusted_where_it_wrote_it(tmp_path: Path):
    (tmp_path / "mine.py").touch()
    loaded = parsed("trainer: mine.py\n# the wizard's\n")
    assert trust_requirements_of(loaded, tmp_path)
    remember_written(loaded.data, tmp_path)
    assert (
        not trust_requirements_of(loaded, tmp_path) and trust_requirements_of(loaded, REPOSITORY.parent) == ()
    )  # no mine.py there
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").touch()
    assert trust_requirements_of(loaded, tmp_path / "other")


def test_a_run_goes_on_with_what_its_launch_agreed_to_and_a_strangers_does_not(tmp_path: Path):
    (tmp_path / "mine.py").touch()
    loaded = parsed("", "trainer=mine.py")
    remember_run("mine-1", loaded, tmp_path)
    require_trust_in_run("mine-1", loaded, tmp_path, trust=False)
    with pytest.raises(BadInput, match=r"mine\.py"):
        require_trust_in_run("theirs-1", loaded, tmp_path, trust=False)


def test_nothing_of_it_is_executed_until_it_is_trusted(job: Path, dimba: Dimba):
    stranger(job)
    assert dimba("validate", "job.yaml", cwd=job).returncode == 0
    made = json.loads(dimba("plan", "job.yaml", "--json", "--runner", "process", cwd=job, **NO_ENGINE).stdout)
    assert made["flags_from"] == "source" and "mine.py" in made["trust"][0]
    refused = dimba("launch", "job.yaml", "--runner", "process", cwd=job, **NO_ENGINE)
    assert (
        refused.returncode == 2
        and "mine.py, which is not part of dimba" in refused.stderr
        and "--trust-spec" in refused.stderr
    )
    assert not (job / "ran").exists() and not (job / "runs").exists()
    done = dimba("launch", "job.yaml", "--runner", "process", "--trust-spec", cwd=job, **NO_ENGINE)
    assert done.returncode == 0 and "working" in done.stdout and (job / "ran").exists()


def test_without_an_engine_it_does_not_run_on_the_machine_by_itself(job: Path, dimba: Dimba):
    stranger(job)
    done = dimba("launch", "job.yaml", "--trust-spec", cwd=job, **NO_ENGINE)
    assert done.returncode == 4 and "--runner process" in done.stderr
    assert not (job / "ran").exists()


def test_a_run_that_a_stranger_left_is_not_gone_on_with(job: Path, dimba: Dimba):
    stranger(job)
    run = job / "runs" / "theirs"
    (run / "attempts").mkdir(parents=True)
    (run / "job.yaml").write_bytes((job / "job.yaml").read_bytes())
    record = {"id": "theirs", "name": "theirs", "status": "queued", "created": "2026-01-01T00:00:00+00:00"}
    record |= {"folder": str(job), "runner": "process", "overrides": ["runner=process", "trainer=mine.py"]}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    dimba("ps", "-a", cwd=job, **NO_ENGINE)
    (run / "run.json").write_text(json.dumps({**record, "status": "failed"}), encoding="utf-8")
    done = dimba("resume", "theirs", cwd=job, **NO_ENGINE)
    assert (
        done.returncode == 2 and "mine.py, which is not part of dimba" in done.stderr and "--trust-spec" in done.stderr
    )
    assert not (job / "ran").exists()


@pytest.mark.proof
def test_a_terminal_is_asked_and_its_answer_kept(job: Path):
    stranger(job)
    with (job / "job.yaml").open("a", encoding="utf-8") as file:
        file.write("# in a terminal\n")
    environment = {**os.environ, **NO_ENGINE, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}

    def launched(answer: str | None) -> tuple[str, int]:
        words = ["-m", "dimba", "launch", "job.yaml", "--runner", "process", "--set", f"output_dir=out-{answer}"]
        child = pexpect.spawn(sys.executable, words, cwd=str(job), env=environment, encoding="utf-8", timeout=60)
        if answer:
            child.expect(r"mine\.py, which is not part of dimba[\s\S]*\[y/N\]")
            child.sendline(answer)
        child.expect(pexpect.EOF)
        child.close()
        return child.before or "", int(child.exitstatus or 0)

    said, status = launched("n")
    assert status == 2 and not (job / "ran").exists() and "--trust-spec" in said
    said, status = launched("y")
    assert status == 0 and "working" in said
    said, status = launched(None)
    assert status == 0 and "mine.py, which is not part of dimba" not in said

"""compose.yaml on the real engine runs the command of `dimba plan` and trains the same weights."""

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dimba.jobs.context import Policy, gather
from dimba.runners.docker.engine import Engine
from dimba.runners.protocol import OneShot
from dimba.runners.registry import find_runner
from dimba.spec import load_spec
from tests.compose import OWNER, build_image, compose_run, give, make_project
from tests.conftest import REPOSITORY, Dimba
from tests.weights import weights_hash

SPEC = """\
version: 1
mode: sft
base_checkpoint: checkpoints/base
dataset: {path: data/rows.jsonl}
method: lora
training: {batch_size: 2, grad_accumulation_steps: 2, max_steps: 3, max_length: 128}
output_dir: checkpoints/out
resources: {gpus: none}
"""
# Prints the command instead of executing it.
SPY = """\
import json, os, sys
os.execvpe = lambda _file, argv, environment: (print(json.dumps([argv, environment])), sys.stdout.flush(), os._exit(0))
from dimba.commands.compose.__main__ import main
sys.exit(main(["job"]))
"""
Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    return build_image()


@pytest.fixture
def project(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A project that belongs to a user other than root."""
    made = make_project(tmp_path, tiny_checkpoint, SPEC)
    (made / "jobs" / "spy.py").write_text(SPY, encoding="utf-8")
    give(made, OWNER)
    return made


@pytest.fixture
def compose(project: Path, image: str) -> Compose:
    return partial(compose_run, project)


def planned(project: Path, monkeypatch: pytest.MonkeyPatch, spec: str = "jobs/x.yaml") -> Any:
    monkeypatch.chdir(project)
    monkeypatch.setenv("HF_HOME", str(project / "cache"))
    return gather(load_spec(Path(spec), ["runner=docker"]), find_runner("docker"), Policy()).plan()


def test_job_starts_the_command_and_environment_of_dimba_plan(
    project: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    plan = planned(project, monkeypatch)
    done = compose("--entrypoint", "python jobs/spy.py", "job-cpu", JOB="jobs/x.yaml")
    argv, environment = json.loads(done.stdout)
    assert argv == list(plan.argv)
    assert {name: environment.get(name) for name in plan.environment} == plan.environment
    shown = json.loads(compose("job-cpu", "jobs/x.yaml", "--plan").stdout)
    wanted = plan.as_json()
    for key in ("argv", "env", "mounts", "omitted", "gpus", "uid", "gid", "working_dir", "shm_bytes", "steps"):
        assert shown[key] == json.loads(json.dumps(wanted[key])), key


def test_compose_docker_and_process_train_the_same_weights(project: Path, compose: Compose, dimba: Dimba):
    give(project, os.geteuid())  # the job's user must be able to run this Python as a process
    found = {}
    for runner in ("docker", "process"):
        out = f"output_dir=checkpoints/{runner}"
        cache = str(project / "cache")
        done = dimba("launch", "jobs/x.yaml", "--runner", runner, "--set", out, cwd=project, HF_HOME=cache)
        assert done.returncode == 0, done.stderr
        found[runner] = weights_hash(project / "checkpoints" / runner)
    done = compose("job-cpu", JOB="jobs/x.yaml")
    assert done.returncode == 0, done.stderr
    found["job"] = weights_hash(project / "checkpoints" / "out")
    flags = "--use-lora --batch-size 2 --grad-accumulation-steps 2 --max-steps 3 --max-length 128"
    named = "--base-checkpoint checkpoints/base --dataset data/rows.jsonl --output-dir checkpoints/by-hand"
    done = compose("sft-cpu", *named.split(), *flags.split())
    assert done.returncode == 0, done.stderr
    found["sft"] = weights_hash(project / "checkpoints" / "by-hand")
    assert len(set(found.values())) == 1, found
    assert [json.loads(line)["step"] for line in (project / "checkpoints/out/metrics.jsonl").open()] == [1, 2, 3]


def test_without_a_user_every_file_belongs_to_the_owner_of_the_checkpoints(project: Path, compose: Compose):
    done = compose("job-cpu", JOB="jobs/x.yaml")
    assert done.returncode == 0 and "step 3/3" in done.stdout, done.stderr
    assert {path.stat().st_uid for path in project.rglob("*")} == {OWNER}
    assert (project / "cache").is_dir(), "the engine creates the missing cache"


def test_a_secret_reaches_only_a_job_that_names_it_and_not_its_environment(project: Path, compose: Compose):
    token = project / "token"
    token.write_text("hf_" + "abcdefghij" * 3, encoding="utf-8")
    token.chmod(0o600)
    os.chown(token, OWNER, -1)
    with (project / "jobs" / "x.yaml").open("a", encoding="utf-8") as spec:
        spec.write("container: {env: [HF_TOKEN]}\n")
    done = compose("--entrypoint", "python jobs/spy.py", "job-cpu", JOB="jobs/x.yaml", HF_TOKEN_FILE=str(token))
    _argv, environment = json.loads(done.stdout)
    assert "HF_TOKEN" not in environment and environment["DIMBA_SECRETS_ON_STDIN"] == "1"
    refused = compose("job-cpu", JOB="jobs/x.yaml")
    assert refused.returncode == 2 and "`HF_TOKEN` is not set" in refused.stderr and "HF_TOKEN_FILE=" in refused.stderr


def test_docker_stop_saves_first(project: Path, compose: Compose, engine: Engine):
    (project / "jobs" / "x.yaml").write_text(SPEC.replace("max_steps: 3", "max_steps: 3000"), encoding="utf-8")
    name = f"dimba-{project.name}"
    assert compose("--detach", "--name", name, "job-cpu", JOB="jobs/x.yaml").returncode == 0
    log = engine.api.logs(name, stream=True, follow=True)
    assert any(b"step 1/" in line for line in log)
    engine.api.stop(name, timeout=60)
    assert list((project / "checkpoints" / "out").glob("checkpoint-*/dimba-whole.json"))


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        ("checkpoints/out", "out", "output_dir: "),
        ("checkpoints/base", "./elsewhere", "base_checkpoint: "),
        ("data/rows.jsonl", "/srv/rows.jsonl", "dataset.path: "),
        ("resources: {gpus: none}", "container: {mounts: [/srv]}", "container.mounts: "),
        ("resources: {gpus: none}", "container: {image: foreign}", "container.image: "),
        ("resources: {gpus: none}", "container: {network: none}", "container.network: "),
        ("resources: {gpus: none}", "container: {pins: latest}", "container.pins: this image has the tested versions"),
        ("resources: {gpus: none}", "resources: {gpus: none, memory: 8g}", "resources.memory: "),
        ("resources: {gpus: none}", "resources: {gpus: none, shm_size: 64g}", "DIMBA_SHM_SIZE=64g"),
        ("resources: {gpus: none}", "trainer: data/mine.py", "trainer: "),
    ],
)
def test_a_spec_that_needs_the_launcher_is_refused_with_the_key(
    project: Path, compose: Compose, old: str, new: str, refusal: str
):
    (project / "data" / "mine.py").write_text("", encoding="utf-8")
    (project / "jobs" / "x.yaml").write_text(SPEC.replace(old, new), encoding="utf-8")
    done = compose("job-cpu", JOB="jobs/x.yaml")
    assert done.returncode == 2, done.stderr
    assert refusal in done.stderr and "`dimba launch jobs/x.yaml`" in done.stderr


def test_requested_gpus_that_do_not_work_abort_the_launch(compose: Compose):
    done = compose("sft", *"--base-checkpoint checkpoints/base --dataset x.txt --output-dir checkpoints/x".split())
    assert done.returncode == 3 and "none works" in done.stderr and "sft-cpu" in done.stderr


def test_an_output_folder_inside_the_container_is_refused(compose: Compose):
    done = compose("sft-cpu", *"--base-checkpoint checkpoints/base --dataset x.txt --output-dir out".split())
    assert done.returncode == 2 and "lost with it" in done.stderr


def test_a_user_who_may_not_write_receives_the_command_that_fixes_it(project: Path, compose: Compose):
    other = OWNER + 1
    done = compose("job-cpu", JOB="jobs/x.yaml", UID=str(other), GID=str(other))
    assert done.returncode == 3 and f"sudo chown -R {other}:{other} {project}/checkpoints" in done.stderr


def test_both_builders_make_the_same_image(engine: Engine, image: str, built: str):
    from dimba.runners.docker.runner import DockerRunner

    files = "cd /opt/dimba && find . -type f -not -path '*__pycache__*' | sort | xargs sha256sum && pip freeze"
    runner = DockerRunner(engine, REPOSITORY)
    contents = [
        runner.run_once(["sh", "-c", files], OneShot(uid=1, gid=1, image=name, timeout=60)) for name in (image, built)
    ]
    assert contents[0].text == contents[1].text and "./dimba/common/contract.py" in contents[0].text

"""Talking to a model in the container: the answer of the process, a GPU held by a lease, nothing left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

from dimba.runners.docker.engine import Engine
from tests.conftest import QUESTIONS, REPOSITORY, Dimba

QUESTION = QUESTIONS[2]["question"]


def test_a_model_answers_in_the_container_as_in_a_process(
    engine: Engine, tiny_checkpoint: Path, tmp_path: Path, dimba: Dimba
):
    ask = ("generate", str(tiny_checkpoint), QUESTION, "--gpus", "none", "--max-new-tokens", "8", "--json")
    own = {"HF_HOME": str(tmp_path / "hf")}
    inside, outside = (dimba(*ask, "--runner", each, cwd=tmp_path, **own) for each in ("docker", "process"))
    assert inside.returncode == outside.returncode == 0, inside.stderr + outside.stderr
    assert json.loads(inside.stdout) == json.loads(outside.stdout)


def test_a_chat_holds_its_gpu_until_it_ends(engine: Engine, tiny_checkpoint: Path, tmp_path: Path):
    own = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path / "hf"), "DIMBA_LEASES": str(tmp_path)}
    command = [sys.executable, "-m", "dimba", "chat", str(tiny_checkpoint), "--runner", "docker", "--allow-cpu"]
    chat = [*command, "--gpus", "2", "--max-new-tokens", "4"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(chat, cwd=tmp_path, env=own, **pipes) as first:
        print(QUESTION, file=first.stdin, flush=True)
        assert first.stdout.readline().strip()
        with subprocess.Popen([*command, "--gpus", "1"], cwd=tmp_path, env=own, **pipes) as second:
            line = next(line for line in second.stderr if "waiting" in line)
            assert "waiting for a GPU" in line and "run chat-" in line
            first.stdin.close()
            assert first.wait(60) == 0
            print(QUESTION, file=second.stdin, flush=True)
            assert second.stdout.readline().strip()
            second.stdin.close()
            assert second.wait(60) == 0
    left = engine.api.containers(all=True, filters={"label": "dimba.run-id"})
    assert not [each for each in left if each["Labels"]["dimba.run-id"].startswith("chat-")]

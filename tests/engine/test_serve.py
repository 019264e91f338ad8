"""`dimba serve` in the image: without a network, on a leased GPU, and gone with its command."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from dimba.common.contract import LABEL_GPUS, LABEL_RUN_ID
from dimba.runners.docker.engine import Engine
from tests.conftest import REPOSITORY
from tests.serving import served, until


def containers(engine: Engine) -> list[dict[str, Any]]:
    """The servers' containers, ended ones too."""
    found = engine.api.containers(all=True, filters={"label": LABEL_RUN_ID})
    return [each for each in found if each["Labels"][LABEL_RUN_ID].startswith("serve-base-")]


@pytest.mark.proof
def test_a_server_holds_its_gpu_until_it_is_killed_and_its_container_goes_with_it(
    tiny_checkpoint: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DIMBA_LEASES", str(tmp_path / "leases"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    where = ("--runner", "docker", "--gpus", "[0]", "--allow-cpu")
    with served(tmp_path, str(tiny_checkpoint), *where, "--port", "0") as serving:
        [container] = containers(engine)
        assert container["Labels"][LABEL_GPUS] == "0"
        inside = engine.api.inspect_container(container["Id"])
        assert inside["Config"]["NetworkDisabled"] and not inside["HostConfig"]["PortBindings"]
        assert "HF_HUB_OFFLINE=1" in inside["Config"]["Env"]
        client = openai.OpenAI(base_url=serving.url, api_key="none", max_retries=0)
        messages: Any = [{"role": "user", "content": "Hello"}]
        found = client.chat.completions.create(model="base", messages=messages, max_tokens=5)
        assert found.usage and found.usage.completion_tokens == 5

        command = [sys.executable, "-m", "dimba", "generate", str(tiny_checkpoint), "Hello", *where]
        errors = tmp_path / "second.txt"
        with errors.open("w") as stderr:
            second = subprocess.Popen(
                [*command, "--max-new-tokens", "5"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr
            )
        holder = f"GPU 0: run {container['Labels'][LABEL_RUN_ID]}"
        until(lambda: "waiting for a GPU" in errors.read_text(), 60)
        assert holder in errors.read_text() and second.poll() is None
        serving.end(signal.SIGKILL)
        assert second.wait(120) == 0, errors.read_text()
    until(lambda: not containers(engine), 20)
    assert serving.get("/health")[0] == 0


@pytest.mark.proof
def test_a_signal_removes_the_container_and_a_container_that_ends_ends_the_server(
    tiny_checkpoint: Path, engine: Engine, tmp_path: Path
):
    where = ("--runner", "docker", "--gpus", "none", "--port", "0")
    with served(tmp_path, str(tiny_checkpoint), *where) as serving:
        assert len(containers(engine)) == 1
        assert serving.end(signal.SIGTERM) == 130
        assert not containers(engine)
    with served(tmp_path, str(tiny_checkpoint), *where) as serving:
        [container] = containers(engine)
        engine.api.kill(container["Id"])
        assert serving.process.wait(30) == 1
        assert "ended with status 137" in serving.log
        assert not containers(engine)

"""compose.yaml as `docker compose config` reads it, without an engine."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.compose.__main__ import main
from dimba.runners.docker.image import default_base
from dimba.runners.docker.request import NAMES, OWN_NAME
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(not shutil.which("docker"), reason="NO COMPOSE TESTED: no docker command here")
GPU, CPU = ("sft", "grpo", "train", "job"), ("sft-cpu", "grpo-cpu", "train-cpu", "job-cpu")


def config(**environment: str) -> dict[str, Any]:
    given = {"PATH": os.environ["PATH"], "HOME": "/home/me", "PWD": "/project", **environment}
    command = ["docker", "compose", "--profile", "cpu", "config", "--format", "json"]
    done = subprocess.run(command, cwd=REPOSITORY, env=given, capture_output=True, text=True, check=False)
    if "is not a docker command" in done.stderr or "unknown flag" in done.stderr:
        pytest.skip("NO COMPOSE TESTED: docker has no compose plugin here")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_each_trainer_and_a_spec_have_a_service_with_gpus_and_one_without():
    services = config()["services"]
    assert set(services) == {*GPU, *CPU}
    for name in GPU:
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": -1, "capabilities": ["gpu"]}
        assert "profiles" not in services[name]
    for name in CPU:
        assert "deploy" not in services[name] and services[name]["profiles"] == ["cpu"]
        assert services[name]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"


@pytest.mark.parametrize("name", [*GPU, *CPU])
def test_a_container_is_locked_down_as_the_launchers_is(name: str):
    service = config()["services"][name]
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges"] and service["init"]
    assert set(service["cap_add"]) == {"CHOWN", "KILL", "SETGID", "SETUID"}
    assert service["hostname"] == OWN_NAME and {f"{key}={value}" for key, value in NAMES.items()} == set(
        service["extra_hosts"]
    )
    assert "privileged" not in service and "gpus" not in service


def test_folders_are_mounted_at_the_same_path_inside():
    service = config(HF_HOME="/data/hf")["services"]["sft"]
    places = {each["target"]: each.get("read_only", False) for each in service["volumes"]}
    assert places == {"/project/jobs": True, "/project/data": True, "/project/checkpoints": False, "/data/hf": False}
    assert service["working_dir"] == "/project" and service["environment"]["HF_HOME"] == "/data/hf"


def test_user_and_group_are_taken_from_the_environment():
    assert config(UID="1234")["services"]["job"]["user"] == "1234:1234"
    assert config(UID="1234", GID="5")["services"]["job"]["user"] == "1234:5"
    assert config()["services"]["job"]["user"] == "0:0", "root, until it becomes the owner of checkpoints/"


def test_secrets_are_passed_as_files_and_not_as_variables():
    shown = config(HF_TOKEN="hf_abcdefghij", HF_TOKEN_FILE="/home/me/token")
    assert shown["secrets"]["HF_TOKEN"]["file"] == "/home/me/token"
    assert "hf_abcdefghij" not in json.dumps(shown)


def test_the_base_image_is_the_dockerfiles_unless_the_environment_names_another():
    assert config()["services"]["sft"]["build"]["args"]["BASE_IMAGE"] == default_base(REPOSITORY)
    assert config(DIMBA_BASE_IMAGE="mine")["services"]["sft"]["build"]["args"]["BASE_IMAGE"] == "mine"


def test_the_mounted_folders_exist_in_a_fresh_clone():
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert {"checkpoints/.gitkeep", "data/.gitkeep"} <= set(listed.splitlines())


def test_the_build_gets_the_proxies_that_the_environment_sets_and_no_others():
    def arguments(**environment: str) -> dict[str, str]:
        return dict(config(**environment)["services"]["sft"]["build"]["args"])

    assert set(arguments()) == {"BASE_IMAGE", "WITH", "PINS"}
    proxies = {"HTTPS_PROXY": "http://proxy:1", "no_proxy": ".internal"}
    assert arguments(**proxies) == {**arguments(), **proxies}


def test_outside_its_container_the_first_process_says_how_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HOME", raising=False)
    for words in ([], ["sft", "--help"]):
        assert main(words) == 2
        assert "docker compose run --rm sft" in capsys.readouterr().err

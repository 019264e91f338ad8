"""The proxies of this machine reach a real build, by the SDK and by Compose; the image keeps nothing of them."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimba.runners.docker.engine import Engine, connect
from dimba.runners.docker.runner import DockerRunner
from dimba.runners.protocol import OneShot
from tests.conftest import REPOSITORY, TEST_BASE
from tests.engine.test_docker import SPEC

LOGIN = "http://me:correct-horse@10.11.12.13:3128"
SEEN = hashlib.sha256(f"{LOGIN} {LOGIN} .internal\n".encode()).hexdigest()
DOCKERFILE = """\
ARG BASE_IMAGE=none
FROM ${BASE_IMAGE}
ARG WITH=
RUN echo "$HTTPS_PROXY $https_proxy $NO_PROXY" | sha256sum > /seen
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose image only notes a hash of the proxies that its build sees."""
    folder = tmp_path / "project"
    shutil.copytree(REPOSITORY / "docker", folder / "docker")
    shutil.copy(REPOSITORY / "compose.yaml", folder)
    (folder / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    return folder


@pytest.fixture
def images(engine: Engine) -> Iterator[list[str]]:
    """Images to remove at the end."""
    made: list[str] = []
    yield made
    for each in made:
        engine.api.remove_image(each, force=True)


def seen_in(engine: Engine, project: Path, image: str) -> str:
    shown = json.dumps([engine.api.inspect_image(image), engine.api.history(image)])
    assert "correct-horse" not in shown and "10.11.12.13" not in shown
    done = DockerRunner(engine, project).run_once(["sh", "-c", "cat /seen; env"], OneShot(uid=1, gid=1, image=image))
    assert "correct-horse" not in done.text
    return done.text.split()[0]


def test_a_build_sees_the_proxies_and_its_image_keeps_nothing_of_them(
    engine: Engine, project: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
):
    runner = DockerRunner(engine, project)
    without = runner.look(SPEC)
    monkeypatch.setenv("HTTPS_PROXY", LOGIN)
    monkeypatch.setenv("no_proxy", ".internal")
    image = runner.prepare(SPEC, lambda *_: None)
    assert image and without and image.key == without.key, "the key is the same on a machine without the proxy"
    images.append(image.reference)
    assert seen_in(engine, project, image.reference) == SEEN


def test_a_build_reaches_a_proxy_on_the_machines_own_loopback(
    engine: Engine, project: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        with (project / "Dockerfile").open("a", encoding="utf-8") as file:
            file.write(f'RUN python3 -c "{connect}"\n')
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        image = DockerRunner(engine, project).prepare(SPEC, lambda *_: None)
    assert image and image.id
    images.append(image.reference)


def test_the_docker_clients_own_proxies_reach_the_build(
    engine: Engine, project: Path, images: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    configuration = {"proxies": {"default": {"httpsProxy": LOGIN, "noProxy": ".internal"}}}
    (tmp_path / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    configured = connect()
    assert isinstance(configured, Engine) and "HTTPS_PROXY" in configured.facts.proxies
    image = DockerRunner(configured, project).prepare(SPEC, lambda *_: None)
    assert image
    images.append(image.reference)
    monkeypatch.delenv("DOCKER_CONFIG")
    assert seen_in(engine, project, image.reference) == SEEN


def test_a_build_by_compose_sees_the_proxies_too(engine: Engine, project: Path, images: list[str]):
    file = project / "compose.yaml"
    file.write_text(file.read_text("utf-8").replace("dimba:compose", "dimba:proxied"), encoding="utf-8")
    proxies = {"HTTPS_PROXY": LOGIN, "https_proxy": LOGIN, "NO_PROXY": ".internal"}
    environment = {**os.environ, **proxies, "DIMBA_BASE_IMAGE": TEST_BASE, "PWD": str(project)}
    command = ["docker", "compose", "build", "sft"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "correct-horse" not in done.stdout + done.stderr, done.stderr
    images.append("dimba:proxied")
    assert seen_in(engine, project, "dimba:proxied") == SEEN

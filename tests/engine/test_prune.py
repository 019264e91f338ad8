"""What `dimba prune` does in a real engine, which other people's containers and images share."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimba.cli import main
from dimba.commands.prune import engine as judged
from dimba.commands.prune.engine import images
from dimba.runners.docker import leftovers
from dimba.runners.docker.engine import Engine
from dimba.runners.docker.image import current_references
from dimba.runners.docker.leftovers import all_containers, our_images, remove_container, remove_image
from dimba.runners.docker.runner import DockerRunner
from tests.commands.test_prune import make_run
from tests.conftest import REPOSITORY, TEST_BASE, Dimba


@pytest.fixture
def made(engine: Engine) -> Iterator[list[str]]:
    """Containers and images of the test, removed after it."""
    things: list[str] = []
    yield things
    for each in things:
        for remove in (engine.api.remove_container, engine.api.remove_image):
            try:
                remove(each, force=True)
            except Exception:  # it is the other kind, or gone
                continue


def container(engine: Engine, made: list[str], run_id: str, *, end: bool = True, image: str = TEST_BASE) -> str:
    labels = {"dimba.run-id": run_id, "dimba.attempt": "1"} if run_id else {}
    created = engine.api.create_container(image, ["sleep", "0" if end else "600"], labels=labels)["Id"]
    made.append(created)
    engine.api.start(created)
    if end:
        engine.api.wait(created)
    return str(created)


def old_image(engine: Engine, made: list[str], key: str) -> str:
    """An image of a former key, by a build that only adds the label."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        text = f"FROM {TEST_BASE}\n".encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    file.seek(0)
    tag, labels = f"dimba:{key}", {"dimba.image-key": key}
    said = list(engine.api.build(fileobj=file, custom_context=True, tag=tag, labels=labels, decode=True))
    assert not any("error" in each for each in said), said
    made.append(tag)
    return tag


def exists(engine: Engine, id: str) -> bool:
    return any(each["Id"] == id for each in engine.api.containers(all=True))


def test_ended_containers_of_the_runs_here_go_and_no_others(
    engine: Engine, made: list[str], tmp_path: Path, dimba: Dimba
):
    name = f"prune-{tmp_path.name}"
    make_run(tmp_path / "runs", name, days_ago=0, exit_reason="completed")
    make_run(tmp_path / "runs", f"{name}-active", status="running")
    ended, goes_on = container(engine, made, name), container(engine, made, name, end=False)
    nowhere, theirs = container(engine, made, f"{name}-nowhere"), container(engine, made, "")
    unread = container(engine, made, f"{name}-active")
    listed = json.loads(dimba("prune", "--containers", "--json", cwd=tmp_path).stdout)
    assert [(each["kind"], each["place"]) for each in listed] == [("container", ended)] and exists(engine, ended)
    done = dimba("prune", "--containers", "--yes", cwd=tmp_path)
    assert done.returncode == 0 and "removed 1 of 1" in done.stderr, done.stderr
    assert not exists(engine, ended)
    assert all(exists(engine, each) for each in (goes_on, nowhere, theirs, unread))


def test_a_run_goes_with_its_container_and_its_adapter_stays(engine: Engine, tiny_job: Path, dimba: Dimba):
    (tiny_job / "mine.py").write_text(
        "import argparse, pathlib\np = argparse.ArgumentParser()\n"
        "for f in ('--model', '--dataset', '--use-lora', '--output-dir'): p.add_argument(f, nargs='?')\n"
        "pathlib.Path(p.parse_args().output_dir, 'adapter_config.json').write_text('{}')\n"
    )
    (tiny_job / "job.yaml").open("a").write("trainer: mine.py\n")
    launched = dimba("launch", "job.yaml", "--trust-spec", cwd=tiny_job)
    assert launched.returncode == 0, launched.stderr
    (run,) = json.loads(dimba("ps", "-a", "--json", cwd=tiny_job).stdout)
    done = dimba("prune", "--containers", "--runs", "--older-than", "0d", "--yes", cwd=tiny_job)
    assert done.returncode == 0 and "removed 2 of 2" in done.stderr, done.stderr
    assert not exists(engine, run["container_id"]) and not (tiny_job / "runs" / run["id"]).exists()
    assert (tiny_job / "out" / "adapter_config.json").exists()


def test_images_of_former_keys_are_found_and_the_current_one_is_not(
    engine: Engine, made: list[str], built: str, tmp_path: Path
):
    key = f"old{tmp_path.name.encode().hex()[:12]}"
    tag = old_image(engine, made, key)
    content = judged.look(DockerRunner(engine, REPOSITORY), REPOSITORY)
    names = [each.name for each in judged.images(content, ()).leftovers]
    assert tag in names and built not in names
    assert built in current_references(engine.api, REPOSITORY)
    (image,) = (each for each in our_images(engine.api) if each.key == key)

    user = container(engine, made, "", image=tag)
    assert "container" in remove_image(engine.api, image.id), "the engine refuses, and says why"
    content = judged.look(DockerRunner(engine, REPOSITORY), REPOSITORY)
    assert tag not in [each.name for each in judged.images(content, ()).leftovers]
    assert tag in [each.name for each in judged.images(content, {user}).leftovers], "where its container goes first"

    assert remove_container(engine.api, user) == "" and remove_image(engine.api, image.id) == ""
    assert remove_image(engine.api, image.id) == "", "what is gone already is no failure"


def test_the_command_removes_images_and_goes_on_where_the_engine_refuses(
    engine: Engine, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    keys = [f"{name}{tmp_path.name.encode().hex()[:12]}" for name in ("free", "used")]
    free, used = (old_image(engine, made, key) for key in keys)
    seen = our_images(engine.api)
    container(engine, made, "", image=used)  # after the look, as of somebody who was quicker
    # Images of other people's work are on this engine too: only the test's own are shown to the command.
    monkeypatch.setattr(leftovers, "our_images", lambda _api: [each for each in seen if each.key in keys])
    monkeypatch.setattr(judged, "images", lambda content, _going: images(replace(content, containers=()), ()))
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--images", "--yes"]) == 0
    said = capsys.readouterr()
    assert free in said.out and used in said.out and "removed 1 of 2" in said.err
    assert f"left alone: image {used}: conflict" in said.err
    assert {each.key for each in our_images(engine.api)} & set(keys) == {keys[1]}


def test_a_running_container_is_not_removed_although_it_was_listed(engine: Engine, made: list[str]):
    running = container(engine, made, "x", end=False)
    assert "running" in remove_container(engine.api, running) and exists(engine, running)


def test_what_a_container_wrote_is_its_size(engine: Engine, made: list[str]):
    labels: dict[str, Any] = {"dimba.run-id": "size"}
    command = ["sh", "-c", "head -c 4096 /dev/zero > /tmp/x"]
    created = engine.api.create_container(TEST_BASE, command, labels=labels)["Id"]
    made.append(created)
    engine.api.start(created)
    engine.api.wait(created)
    (found,) = (each for each in all_containers(engine.api) if each.id == created)
    assert found.size == 4096 and found.run_id == "size"

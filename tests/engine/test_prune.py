"""`dimba prune` in a real engine that also holds other users' containers and images."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimba.cli import main
from dimba.commands.prune import engine as prune_engine
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
            except Exception:  # it is of the other kind, or already removed
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
    output = list(engine.api.build(fileobj=file, custom_context=True, tag=tag, labels=labels, decode=True))
    assert not any("error" in each for each in output), output
    made.append(tag)
    return tag


def exists(engine: Engine, id: str) -> bool:
    return any(each["Id"] == id for each in engine.api.containers(all=True))


def test_only_ended_containers_of_this_folders_runs_are_removed(
    engine: Engine, made: list[str], tmp_path: Path, dimba: Dimba
):
    name = f"prune-{tmp_path.name}"
    make_run(tmp_path / "runs", name, days_ago=0, exit_reason="completed")
    make_run(tmp_path / "runs", f"{name}-active", status="running")
    ended, running = container(engine, made, name), container(engine, made, name, end=False)
    nowhere, theirs = container(engine, made, f"{name}-nowhere"), container(engine, made, "")
    unread = container(engine, made, f"{name}-active")
    listed = json.loads(dimba("prune", "--containers", "--json", cwd=tmp_path).stdout)
    assert [(each["kind"], each["place"]) for each in listed] == [("container", ended)] and exists(engine, ended)
    done = dimba("prune", "--containers", "--yes", cwd=tmp_path)
    assert done.returncode == 0 and "removed 1 of 1" in done.stderr, done.stderr
    assert not exists(engine, ended)
    assert all(exists(engine, each) for each in (running, nowhere, theirs, unread))


def test_a_run_is_removed_with_its_container_and_its_adapter_is_kept(engine: Engine, tiny_job: Path, dimba: Dimba):
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


def test_images_of_former_keys_are_leftovers_and_the_current_image_is_not(
    engine: Engine, made: list[str], built: str, tmp_path: Path
):
    key = f"old{tmp_path.name.encode().hex()[:12]}"
    tag = old_image(engine, made, key)
    content = prune_engine.read_content(DockerRunner(engine, REPOSITORY), REPOSITORY)
    names = [each.name for each in prune_engine.images(content, ()).leftovers]
    assert tag in names and built not in names
    assert built in current_references(engine.api, REPOSITORY)
    (image,) = (each for each in our_images(engine.api) if each.key == key)

    user = container(engine, made, "", image=tag)
    assert "container" in remove_image(engine.api, image.id), "the engine refuses with a reason"
    content = prune_engine.read_content(DockerRunner(engine, REPOSITORY), REPOSITORY)
    assert tag not in [each.name for each in prune_engine.images(content, ()).leftovers]
    assert tag in [each.name for each in prune_engine.images(content, {user}).leftovers], (
        "its container is removed first"
    )

    assert remove_container(engine.api, user) == "" and remove_image(engine.api, image.id) == ""
    assert remove_image(engine.api, image.id) == "", "removing a missing image does not fail"


def test_prune_continues_with_the_next_image_after_the_engine_refuses_one(
    engine: Engine, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    keys = [f"{name}{tmp_path.name.encode().hex()[:12]}" for name in ("free", "used")]
    free, used = (old_image(engine, made, key) for key in keys)
    listed = our_images(engine.api)
    container(engine, made, "", image=used)  # as if another user started it after the listing
    # The engine holds images of other work too: the command lists only the test's own.
    monkeypatch.setattr(leftovers, "our_images", lambda _api: [each for each in listed if each.key in keys])
    monkeypatch.setattr(prune_engine, "images", lambda content, _going: images(replace(content, containers=()), ()))
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--images", "--yes"]) == 0
    captured = capsys.readouterr()
    assert free in captured.out and used in captured.out and "removed 1 of 2" in captured.err
    assert f"kept: image {used}: conflict" in captured.err
    assert {each.key for each in our_images(engine.api)} & set(keys) == {keys[1]}


def test_a_container_that_runs_again_after_the_listing_is_not_removed(engine: Engine, made: list[str]):
    running = container(engine, made, "x", end=False)
    assert "running" in remove_container(engine.api, running) and exists(engine, running)


def test_the_size_of_a_container_is_what_it_wrote(engine: Engine, made: list[str]):
    labels: dict[str, Any] = {"dimba.run-id": "size"}
    command = ["sh", "-c", "head -c 4096 /dev/zero > /tmp/x"]
    created = engine.api.create_container(TEST_BASE, command, labels=labels)["Id"]
    made.append(created)
    engine.api.start(created)
    engine.api.wait(created)
    (found,) = (each for each in all_containers(engine.api) if each.id == created)
    assert found.size == 4096 and found.run_id == "size"

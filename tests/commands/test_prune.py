"""What `dimba prune` lists, removes and keeps on disk; tests/engine has the engine's part."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dimba.cli import main
from dimba.cli.prune import seconds
from dimba.commands.prune import disk
from dimba.commands.prune.engine import EngineContent, containers, images
from dimba.common.errors import BadInput
from dimba.records import RunRecord
from dimba.runners.docker.leftovers import Container, Image
from tests.conftest import NO_ENGINE, REPOSITORY, Dimba

DAY = 86_400
UNKNOWN_UID = 1234  # no user has it


def stamp(days_ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - days_ago * DAY))


def make_run(runs: Path, name: str, days_ago: float = 40, status: str = "succeeded", **more: Any) -> Path:
    folder = runs / name
    (folder / "attempts" / "1").mkdir(parents=True)
    (folder / "attempts" / "1" / "log.txt").write_text("a line\n", encoding="utf-8")
    ended = None if status == "running" else stamp(days_ago)
    record = {"id": name, "name": name, "status": status, "created": stamp(days_ago), "ended": ended, **more}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "job.yaml").touch()
    return folder


def make_entry(home: Path, kind: str, name: str, days_ago: float = 40) -> Path:
    folder = home / "dimba" / kind / name
    folder.mkdir(parents=True)
    (folder / "ids.bin").write_bytes(bytes(1000))
    folder.with_name(f"{name}.lock").touch()
    then = time.time() - days_ago * DAY
    for path in (folder / "ids.bin", folder):
        os.utime(path, (then, then))
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an old, a young and an active run, and with a stale and a fresh entry in each cache."""
    make_run(tmp_path / "runs", "old", output_dir=str(tmp_path / "out"))
    make_run(tmp_path / "runs", "young", days_ago=2)
    make_run(tmp_path / "runs", "active", status="running")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_config.json").touch()
    for kind in ("tokens", "rewards"):
        make_entry(tmp_path / "hf", kind, "stale")
        make_entry(tmp_path / "hf", kind, "fresh", days_ago=1)
    return tmp_path


@pytest.fixture
def prune(place: Path, dimba: Dimba) -> Any:
    return lambda *args: dimba("prune", *args, cwd=place, HF_HOME=str(place / "hf"), **NO_ENGINE)


def listed(prune: Any, *args: str) -> list[str]:
    return [each["name"] for each in json.loads(prune("--json", *args).stdout)]


def test_without_a_terminal_and_without_yes_it_only_lists(place: Path, prune: Any):
    before = sorted(place.rglob("*"))
    done = prune()
    assert done.returncode == 0
    assert "old" in done.stdout and "tokens/stale" in done.stdout and "1,000 B" in done.stdout and "40 d" in done.stdout
    assert "young" not in done.stdout and "fresh" not in done.stdout and "active" not in done.stdout
    assert "nothing was removed; `dimba prune --yes`" in done.stderr
    assert "containers and images are not listed: nothing listens on" in done.stderr
    assert sorted(place.rglob("*")) == before


def test_yes_removes_old_runs_and_cache_entries_but_no_trained_model(place: Path, prune: Any):
    done = prune("--yes")
    assert done.returncode == 0 and "removed 3 of 3" in done.stderr
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["active", "young"]
    for kind in ("tokens", "rewards"):
        assert sorted(path.name for path in (place / "hf" / "dimba" / kind).iterdir()) == ["fresh", "fresh.lock"]
    assert (place / "out" / "adapter_config.json").exists()
    assert "nothing to remove" in prune("--yes").stderr


def test_the_age_and_the_kind_select_the_leftovers(prune: Any):
    assert listed(prune, "--runs") == ["old"]
    assert listed(prune, "--runs", "--older-than", "1d") == ["old", "young"]
    assert listed(prune, "--cache", "--older-than", "12h") == [
        "tokens/fresh",
        "tokens/stale",
        "rewards/fresh",
        "rewards/stale",
    ]
    assert "active" not in listed(prune, "--older-than", "0d"), "an active run is never old"


@pytest.mark.parametrize(("text", "expected"), [("12h", 43_200), ("7d", 604_800), ("0d", 0), ("1.5h", 5_400)])
def test_an_age_is_parsed_to_seconds(text: str, expected: float):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "7", "d", "seven days", "-1d", "7 y", "1e9d", "٣d"])
def test_an_invalid_age_is_refused_with_an_example(prune: Any, text: str):
    with pytest.raises(BadInput):
        seconds(text)
    done = prune(f"--older-than={text}", "--yes", "--json")
    assert done.returncode == 2 and "`7d`" in done.stderr and "is not an age" in json.loads(done.stdout)["error"]


def test_the_json_list_reports_whether_each_leftover_was_removed(prune: Any):
    (before,) = json.loads(prune("--json", "--runs").stdout)
    assert before["removed"] is False and before["kind"] == "run" and before["age"] >= 40 * DAY - 5
    (after,) = json.loads(prune("--json", "--runs", "--yes").stdout)
    assert after["removed"] is True and after["problem"] == ""
    assert json.loads(prune("--json", "--runs").stdout) == []


def test_asking_only_for_images_without_an_engine_is_an_error(prune: Any):
    assert prune("--images", "--yes").returncode == 4


def test_a_link_is_removed_but_not_its_target(place: Path, prune: Any):
    elsewhere = place / "elsewhere"
    make_run(elsewhere, "linked")
    (place / "runs" / "linked").symlink_to(elsewhere / "linked")
    kept = make_entry(elsewhere, "tokens", "kept")
    then = time.time() - 40 * DAY
    link = place / "hf" / "dimba" / "tokens" / "link"
    link.symlink_to(kept)
    os.utime(link, (then, then), follow_symlinks=False)
    (place / "runs" / "old" / "inside").symlink_to(kept)
    done = prune("--yes")
    assert done.returncode == 0 and "removed 5 of 5" in done.stderr
    assert not link.is_symlink() and not (place / "runs" / "linked").is_symlink()
    assert (elsewhere / "linked" / "run.json").exists() and (kept / "ids.bin").exists()


def test_a_cache_folder_that_is_a_link_is_kept(place: Path, prune: Any):
    tokens = place / "hf" / "dimba" / "tokens"
    tokens.rename(place / "documents")
    tokens.symlink_to(place / "documents")
    done = prune("--cache", "--yes")
    assert "tokens: it is a link to another folder" in done.stderr and (place / "documents" / "stale").exists()


def test_a_run_folder_that_contains_a_model_is_kept(place: Path, prune: Any):
    (place / "runs" / "old" / "out").mkdir()
    (place / "runs" / "old" / "out" / "dimba.json").touch()
    done = prune("--runs", "--yes")
    assert done.returncode == 0 and "it contains a trained model" in done.stderr
    assert (place / "runs" / "old" / "out" / "dimba.json").exists()


def test_an_unreadable_record_is_reported_and_its_run_kept(place: Path, prune: Any):
    (place / "runs" / "old" / "run.json").write_text("{")
    done = prune("--runs", "--older-than", "0d", "--yes")
    assert "kept:" in done.stderr and "not a run record" in done.stderr and (place / "runs" / "old").exists()
    assert not (place / "runs" / "young").exists()


@contextmanager
def as_another_user() -> Iterator[None]:
    os.setresgid(UNKNOWN_UID, UNKNOWN_UID, 0)
    os.setresuid(UNKNOWN_UID, UNKNOWN_UID, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can create another user's files")
def test_a_folder_with_another_users_file_is_reported_and_kept_complete_while_the_rest_is_removed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    closed = make_run(place / "runs", "theirs")
    place.chmod(0o755)
    for path in (place, *place.rglob("*")):
        os.chown(path, UNKNOWN_UID, UNKNOWN_UID, follow_symlinks=False)
    os.chown(closed / "attempts" / "1", 0, 0)
    for parent in place.parents:  # pytest closes its folders to other users
        parent.chmod(parent.stat().st_mode | 0o055)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HOME", str(place / "hf"))
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE["DOCKER_HOST"])
    assert main(["prune", "--json"]) == 0  # while the packages, which only root may read here, can be imported
    with as_another_user():
        assert main(["prune", "--yes"]) == 3
    stderr = capsys.readouterr().err
    assert f"{closed / 'attempts' / '1'} belongs to user root" in stderr and "hint: " in stderr
    assert (closed / "run.json").exists() and (closed / "attempts" / "1" / "log.txt").exists()
    assert not (place / "runs" / "old").exists() and "removed 3 of 4" in stderr


@pytest.mark.parametrize(("answer", "removed"), [("y", True), ("", False), ("n", False)])
def test_on_a_terminal_it_asks_and_removes_only_after_y(place: Path, answer: str, removed: bool):
    main, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dimba", "prune", "--runs"],
        cwd=place,
        env={**os.environ, **NO_ENGINE, "PYTHONPATH": str(REPOSITORY), "TERM": "dumb"},
        stdin=end,
        stderr=end,
        stdout=subprocess.PIPE,
    )
    os.write(main, f"{answer}\n".encode())
    assert process.wait(60) == 0
    assert b"remove it? [y/N]" in os.read(main, 4096)
    assert (place / "runs" / "old").exists() is not removed


def test_a_run_resumed_after_the_listing_is_kept(place: Path):
    ((leftover,), _notes) = vars(disk.runs({"old": place / "runs" / "old"}, {"old": 40.0 * DAY}, 0)).values()
    record = json.loads((place / "runs" / "old" / "run.json").read_text())
    (place / "runs" / "old" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    assert disk.remove_run(leftover) == "the run was resumed" and (place / "runs" / "old").exists()


def test_a_cache_entry_read_after_the_listing_is_kept(place: Path):
    stale = next(each for each in disk.cache(place / "hf", 30 * DAY).leftovers if each.name == "tokens/stale")
    path = place / "hf" / "dimba" / "tokens" / "stale"
    os.utime(path / "ids.bin", (time.time(), path.stat().st_mtime))
    assert disk.remove_entry(stale) == "a job has just used it" and path.exists()


def container(name: str, run_id: str = "", state: str = "exited", image: str = "image") -> Container:
    return Container(id=f"id-{name}", name=name, run_id=run_id, image=image, state=state, created=0, size=5)


def image(name: str, *tags: str, created: float = 0) -> Image:
    return Image(id=name, key=name, tags=tags or (f"dimba:{name}",), created=created, size=7)


def test_only_containers_of_ended_runs_with_a_log_on_disk_are_leftovers():
    all_containers = (
        container("ended", "done"),
        container("running", "done", state="running"),
        container("paused", "done", state="paused"),
        container("elsewhere", "nowhere"),
        container("unread", "lost"),
        container("theirs"),
    )
    records = {name: RunRecord(id=name, name=name, status=name) for name in ("done", "lost")}
    found = containers(EngineContent(all_containers, (), frozenset()), records, {"done": 9.0, "lost": 9.0})
    assert [(each.name, each.age, each.size) for each in found.leftovers] == [("ended", 9.0, 5)]
    assert "kept: 2 idle containers of runs that did not end here" in found.notes[0]


def test_images_are_leftovers_unless_they_are_current_used_or_renamed():
    names = ("current", "running", "idle", "going", "old")
    all_images = (*map(image, names), image("renamed", "mine:latest"), image("none", "dimba:none"))
    users = (
        container("a", state="running", image="running"),
        container("b", image="idle"),
        container("c", "done", image="going"),
    )
    content = EngineContent(users, all_images, frozenset({"dimba:current"}))
    found = images(content, {"id-c"})
    assert [each.name for each in found.leftovers] == ["dimba:going", "dimba:old", "dimba:none"]
    assert "1 image (dimba:idle) used by ended containers" in found.notes[0] and "mine:latest" in found.notes[1]


def test_without_a_known_current_key_the_newest_image_is_kept():
    content = EngineContent((), (image("old"), image("new", created=9)), frozenset())
    assert [each.name for each in images(content, ()).leftovers] == ["dimba:old"]


def test_the_folder_of_a_sweep_goes_with_its_last_run(tmp_path: Path):
    runs = tmp_path / "runs"
    folders = [make_run(runs, f"s-{number}", group="s") for number in (1, 2)]
    (runs / "s").mkdir()
    swept = [{"id": folder.name, "values": ["8"]} for folder in folders]
    (runs / "s" / "sweep.json").write_text(json.dumps({"id": "s", "keys": ["lora.r"], "runs": swept}), encoding="utf-8")
    ages = {folder.name: 40.0 * DAY for folder in folders}
    first, second = disk.runs({folder.name: folder for folder in folders}, ages, DAY).leftovers
    assert disk.remove_run(first) == "" and (runs / "s" / "sweep.json").exists()
    assert disk.remove_run(second) == "" and not (runs / "s").exists()

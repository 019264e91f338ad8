"""One writer per output folder: among processes, machines, spellings of a path, and folders inside each other."""

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from dimba.common import ownership
from dimba.common.contract import OWNER_FILE, RUN_FILE
from dimba.common.errors import BadInput
from dimba.common.owner import Owner, this_process
from dimba.common.ownership import give_back, has_ended, owner_of, take, use_of

FORK = multiprocessing.get_context("fork")


def another(folder: Path, **changes: Any) -> Owner:
    """A record that another process has left in the folder."""
    owner = replace(this_process(), process="1:1", **changes)
    (folder / OWNER_FILE).write_text(json.dumps(asdict(owner)))
    return owner


def recorded(place: Path, status: str) -> dict[str, str]:
    place.mkdir(parents=True)
    (place / RUN_FILE).write_text(json.dumps({"status": status}))
    return {"run_id": place.name, "run": str(place)}


def compete(folder: Path, start: Any, answers: Any, number: int) -> None:
    start.wait()
    try:
        taken = take(folder, this_process(f"run-{number}"))
        assert taken
        answers.put(("taken", number, ""))
    except BadInput as error:
        answers.put(("refused", number, error.message))
    start.wait()  # the owner lives until all have asked


def race(folder: Path, count: int) -> list[tuple[str, int, str]]:
    """(`taken` or `refused`, number, message) of processes that take the folder in the same instant."""
    start, answers = FORK.Barrier(count), FORK.Queue()
    racers = [
        FORK.Process(target=compete, args=(folder, start, answers, number), daemon=True) for number in range(count)
    ]
    for each in racers:
        each.start()
    found = [answers.get(timeout=20) for _ in racers]
    for each in racers:
        each.join()
    return found


@pytest.mark.parametrize("stale", [False, True])
def test_of_eight_processes_in_the_same_instant_one_gets_the_folder(tmp_path: Path, stale: bool):
    if stale:
        another(tmp_path)
    found = race(tmp_path, 8)
    (winner,) = (number for outcome, number, _ in found if outcome == "taken")
    assert all(f"run `run-{winner}`" in message for outcome, _, message in found if outcome == "refused")
    assert [each.name for each in tmp_path.iterdir()] == [OWNER_FILE], "no temporary file is left"


LOCKS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "local": lambda _: None,
    "folders-without-locks": lambda patch: patch.setattr(ownership, "_alone", lambda _: nullcontext()),  # NFS
    "no-hard-links": lambda patch: patch.setattr(os, "link", not_permitted),
    "no-locks": lambda patch: patch.setattr(ownership.fcntl, "flock", not_permitted),
}


def not_permitted(*_: Any) -> None:
    raise OSError(errno.EPERM, "not permitted")


QUICK = [
    ("local", "dead process"),
    ("folders-without-locks", "ended run"),
    ("no-hard-links", "no owner"),
    ("no-locks", "dead process"),
]
OTHERS = [case for case in product(LOCKS, ["no owner", "dead process", "ended run"]) if case not in QUICK]


@pytest.mark.parametrize(
    ("locks", "before"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.proof) for case in OTHERS)]
)
def test_of_twenty_pairs_in_the_same_instant_one_each_wins_and_the_other_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str, before: str
):
    LOCKS[locks](monkeypatch)
    ended = recorded(tmp_path / "runs" / "earlier", "failed") if before == "ended run" else {}
    for pair in range(20):
        folder = tmp_path / f"out-{pair}"
        folder.mkdir()
        if before != "no owner":
            another(folder, **ended)
        found = sorted(race(folder, 2))
        if (locks, before) == ("no-locks", "dead process"):  # which cannot be told from a living one
            assert [outcome for outcome, _, _ in found] == ["refused", "refused"]
            continue
        (refused, _, message), (taken, winner, _) = found
        assert (refused, taken) == ("refused", "taken") and f"in use by run `run-{winner}`" in message, found
        assert [each.name for each in folder.iterdir()] == [OWNER_FILE], "no temporary file is left"


def test_a_killed_owner_is_replaced_and_a_living_one_is_not(tmp_path: Path):
    ready = FORK.Event()

    def own() -> None:
        take(tmp_path, this_process())
        ready.set()
        signal.pause()

    owner = FORK.Process(target=own)
    owner.start()
    ready.wait(10)
    with pytest.raises(BadInput, match=rf"in use by a trainer \(process {owner.pid}\) of .+ on .+ since"):
        take(tmp_path, this_process())
    os.kill(owner.pid or 0, signal.SIGKILL)
    owner.join()
    take(tmp_path, this_process()).release()
    assert owner_of(tmp_path) is None


@pytest.mark.parametrize(("status", "ended"), [("running", False), ("queued", False), ("failed", True), ("lost", True)])
def test_the_record_of_the_run_decides_also_on_another_machine(tmp_path: Path, status: str, ended: bool):
    (tmp_path / "out").mkdir()
    run = recorded(tmp_path / "runs" / "run-1", status)
    owner = another(tmp_path / "out", boot="of another machine", host="far", **run)
    assert has_ended(tmp_path / "out", owner) is ended


@pytest.mark.parametrize(
    ("changes", "ended"),
    [
        ({}, True),  # its process died on this machine
        ({"pids": "pid:[1]"}, True),  # in another container of this machine: its lock is free
        ({"boot": "earlier"}, True),  # this machine has restarted since
        ({"boot": "other", "host": "far"}, None),
        ({"boot": "other", "host": "far", "machine": ""}, None),
        ({"boot": "other", "machine": ""}, None),  # a container whose name proves nothing
        ({"run_id": "r", "run": "/nowhere/runs/r"}, None),  # records that are not mounted here
    ],
)
def test_an_owner_without_a_record_has_ended_only_if_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], ended: bool | None
):
    (tmp_path / "machine-id").write_text("this machine")
    monkeypatch.setattr("dimba.common.owner._MACHINE", tmp_path / "machine-id")
    owner = another(tmp_path, **changes)
    assert has_ended(tmp_path, owner) is ended
    if ended is None:
        with pytest.raises(BadInput) as refused:
            take(tmp_path, this_process("mine"))
        assert f"rm {tmp_path / OWNER_FILE}" in refused.value.hint
        (tmp_path / OWNER_FILE).unlink()
    take(tmp_path, this_process("mine")).release()


FAR = {"boot": "of another machine", "host": "far"}


@pytest.mark.parametrize(
    ("status", "place", "changes", "hint"),
    [
        ("running", "runs", {}, "or end that one: `dimba stop r`"),
        ("running", "other/runs", {}, "or end that one: `DIMBA_RUNS={}/other/runs dimba stop r`"),
        ("running", "runs", FAR, "on far: `dimba stop r`; if that machine is gone, `dimba stop r --now` here"),
        ("", "runs", FAR, "or end that one where it was launched: `dimba stop r`; if it no longer runs, `rm {}/out/"),
        ("", "", FAR, "give another folder; if it no longer runs, `rm {}/out/dimba-owner.json`"),
    ],
)
def test_the_refusal_of_a_folder_in_use_names_every_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, place: str, changes: dict[str, str], hint: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    if place:
        changes = {**changes, "run_id": "r", "run": str(tmp_path / place / "r")}
        (tmp_path / place).mkdir(parents=True)
    if status:
        recorded(tmp_path / place / "r", status)
    another(tmp_path / "out", **changes)
    with pytest.raises(BadInput) as refused:
        take(tmp_path / "out", this_process("mine"))
    assert hint.format(tmp_path) in refused.value.hint
    assert use_of(tmp_path / "out").hint == refused.value.hint  # type: ignore[union-attr]


def test_the_trainer_of_another_machine_whose_lock_is_left_can_be_removed(tmp_path: Path):
    """An NFS server may keep the lock of a machine that is gone."""
    owner = another(tmp_path, **FAR)
    with (tmp_path / OWNER_FILE).open() as file:
        ownership.fcntl.flock(file, ownership.fcntl.LOCK_SH)
        assert has_ended(tmp_path, owner) is False
        with pytest.raises(BadInput, match="in use by a trainer") as refused:
            take(tmp_path, this_process("mine"))
    assert f"if it no longer runs, `rm {tmp_path / OWNER_FILE}`" in refused.value.hint


def test_the_record_of_another_version_is_replaced_once_its_owner_has_ended(tmp_path: Path):
    another(tmp_path)
    record = json.loads((tmp_path / OWNER_FILE).read_text())
    (tmp_path / OWNER_FILE).write_text(json.dumps({**record, "key of another version": 1}))
    take(tmp_path, this_process("mine")).release()
    assert owner_of(tmp_path) is None


def test_every_spelling_of_a_folder_is_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    monkeypatch.chdir(tmp_path)
    owned = take(Path("out"), this_process("first"))
    for other in (tmp_path / "out", tmp_path / "link", Path("link"), Path("out/../link")):
        with pytest.raises(BadInput, match="run `first`"):
            take(other, this_process("second"))
    owned.release()


@pytest.mark.parametrize(("first", "second"), [("out", "out/inner"), ("out/inner", "out"), ("out/a/inner", "out")])
def test_a_folder_inside_one_that_is_in_use_is_in_use(tmp_path: Path, first: str, second: str):
    for each in (first, second):
        (tmp_path / each).mkdir(parents=True, exist_ok=True)
    owned = take(tmp_path / first, this_process("first"))
    with pytest.raises(BadInput, match="run `first`"):
        take(tmp_path / second, this_process("second"))
    assert owner_of(tmp_path / second) is None
    owned.release()
    take(tmp_path / second, this_process("second")).release()


def test_folders_side_by_side_do_not_disturb_each_other(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
    owned = [take(tmp_path / name, this_process(name)) for name in "ab"]
    for each in owned:
        each.release()


def test_the_trainer_of_a_run_shares_its_launchers_folder_and_leaves_it_to_the_launcher(tmp_path: Path):
    owner = this_process("run-1")
    launcher = take(tmp_path, owner)
    with pytest.raises(BadInput, match="run `run-1`"):  # a second `dimba resume` of the same run
        take(tmp_path, replace(owner, process="2:2"))
    trainer = take(tmp_path, replace(owner, process="2:2"), adopts=True)
    trainer.keep()
    assert owner_of(tmp_path) == owner
    launcher.release()
    assert not list(tmp_path.iterdir())


def test_only_the_owner_gives_the_folder_back(tmp_path: Path):
    owned = take(tmp_path, this_process("run-1"))
    give_back(tmp_path, "run-2")
    assert owner_of(tmp_path) is not None
    give_back(tmp_path, "run-1")
    owned.release()
    assert owner_of(tmp_path) is None


def test_a_file_system_without_hard_links_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "link", not_permitted)
    owned = take(tmp_path, this_process("run-1"))
    with pytest.raises(BadInput, match="run `run-1`"):
        take(tmp_path, this_process("run-2"))
    owned.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3, "new key": 1}'])
def test_an_unreadable_record_is_not_overwritten(tmp_path: Path, content: str):
    (tmp_path / OWNER_FILE).write_text(content)
    with pytest.raises(BadInput, match="an unknown user") as refused:
        take(tmp_path, this_process())
    assert "rm " in refused.value.hint

"""Checkpoints: an incomplete one is never used."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from dimba.common.checkpoints import complete_checkpoints, is_complete, newest_checkpoint
from dimba.common.errors import BadInput, RunFailed
from dimba.trainers.models.checkpoints import checkpoint_to_resume, full_disk_reported, move_into_place


def checkpoint(folder: Path, step: int, **files: str) -> Path:
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    files = files or {"model": "weights"}
    for name, text in files.items():
        (place / name).write_text(text, encoding="utf-8")
    note = {"step": step, "files": {name: len(text) for name, text in files.items()}}
    (place / "dimba-whole.json").write_text(json.dumps(note), encoding="utf-8")
    return place


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path: Path):
    made = [checkpoint(tmp_path, step) for step in (9, 100, 20)]
    assert complete_checkpoints(tmp_path) == [made[0], made[2], made[1]]
    assert newest_checkpoint(tmp_path) == made[1]
    assert newest_checkpoint(tmp_path / "nowhere") is None


def spoil(how: str, place: Path) -> None:
    note = place / "dimba-whole.json"
    match how:
        case "a file is short":
            (place / "model").write_text("w", encoding="utf-8")
        case "a file is missing":
            (place / "model").unlink()
        case "no note":
            note.unlink()
        case "half a note":
            note.write_text('{"files": {"mod', encoding="utf-8")
        case "an empty note":
            note.write_text('{"files": {}}', encoding="utf-8")
        case "a folder for a file":
            (place / "model").unlink()
            (place / "model").mkdir()


@pytest.mark.parametrize(
    "how", ["a file is short", "a file is missing", "no note", "half a note", "an empty note", "a folder for a file"]
)
def test_a_checkpoint_that_a_killed_run_was_writing_is_not_used(tmp_path: Path, how: str):
    older, newer = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    spoil(how, newer)
    assert not is_complete(newer) and newest_checkpoint(tmp_path) == older
    with pytest.raises(BadInput, match="is not complete") as raised:
        checkpoint_to_resume(str(newer))
    assert str(older) in raised.value.hint


def test_resuming_from_an_output_folder_takes_its_newest_checkpoint(tmp_path: Path):
    place = checkpoint(tmp_path, 3)
    assert checkpoint_to_resume(str(tmp_path)) == checkpoint_to_resume(str(place)) == str(place)
    assert checkpoint_to_resume(None) is None
    shutil.rmtree(place)
    with pytest.raises(BadInput, match="no complete checkpoint"):
        checkpoint_to_resume(str(tmp_path))


def test_a_checkpoint_of_a_custom_trainer_is_accepted(tmp_path: Path):
    place = tmp_path / "checkpoint-7"
    place.mkdir()
    (place / "trainer_state.json").write_text("{}", encoding="utf-8")
    assert checkpoint_to_resume(str(place)) == str(place)


def test_a_save_that_does_not_fit_on_the_disk_fails_before_it_begins(tmp_path: Path):
    kept = checkpoint(tmp_path, 5)
    with (
        pytest.raises(RunFailed, match=r"a checkpoint needs .* GiB, .* are free") as raised,
        full_disk_reported(tmp_path, 1 << 60, check_first=True),
    ):
        pytest.fail("the save began")
    assert raised.value.reason == "disk_full" and "checkpoint-5 is kept" in raised.value.hint and is_complete(kept)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_disk_full_while_saving_is_reported_and_the_partial_checkpoint_removed(tmp_path: Path, error: Exception):
    (tmp_path / ".saving" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(RunFailed) as raised, full_disk_reported(tmp_path, 10, check_first=True):
        raise error
    assert raised.value.reason == "disk_full" and not (tmp_path / ".saving").exists()


def test_other_errors_while_saving_are_raised_unchanged(tmp_path: Path):
    with pytest.raises(ValueError, match="else"), full_disk_reported(tmp_path, 10, check_first=True):
        raise ValueError("something else")


def test_a_model_replaces_the_old_one_in_one_move(tmp_path: Path):
    aside = tmp_path / ".saving" / "model"
    aside.mkdir(parents=True)
    (aside / "model.safetensors").write_text("new", encoding="utf-8")
    (tmp_path / "model.safetensors").write_text("old", encoding="utf-8")
    move_into_place(aside, tmp_path)
    assert (tmp_path / "model.safetensors").read_text(encoding="utf-8") == "new"
    assert not (tmp_path / ".saving").exists()

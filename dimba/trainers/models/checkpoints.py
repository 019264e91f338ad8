"""Checkpoints that are complete or absent: written aside, flushed to the disk, renamed; then older ones are removed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dimba.common.checkpoints import complete_checkpoints, file_sizes, is_complete, newest_checkpoint, step_of
from dimba.common.contract import COMPLETE_FILE, SAVING_FOLDER
from dimba.common.errors import BadInput, RunFailed
from dimba.common.units import size
from dimba.options.table import RESUME
from dimba.trainers.models.checkpoint_weights import has_other_names, load_renamed
from dimba.trainers.models.sharding import is_sharded

if TYPE_CHECKING:
    from transformers import Trainer

TRAINED_WITH_FILE = "dimba-trained-with.json"  # in a checkpoint: what has to be the same where it is continued
_ADAM_BYTES = 8  # per trained weight: both moments, in float32
_NEARLY_FULL = 1 << 20  # free bytes of a full disk; torch's writer reports no error number


class CompleteCheckpoints:
    """A mixin for a trainer of transformers; it comes first among the bases."""

    trained_with: Mapping[str, Any] = {}  # replaced, never changed
    _writes_aside = False

    def _get_output_dir(self, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial)  # type: ignore[misc]  # the trainer's
        return str(Path(folder, SAVING_FOLDER)) if self._writes_aside else folder

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        trainer: Any = self
        own, folder = model or trainer.model, Path(resume_from_checkpoint)
        if hasattr(own, "peft_config") or is_sharded() or not has_other_names(own, folder):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        else:
            load_renamed(own, folder)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        trainer: Any = self
        output = Path(trainer.args.output_dir)
        with full_disk_reported(output, _expected_bytes(trainer, output), check_first=trainer.args.should_save):
            if trainer.args.should_save:
                shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)  # of a run that was killed while saving
            trainer.accelerator.wait_for_everyone()
            self._writes_aside = True
            try:
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            finally:
                self._writes_aside = False
                trainer.state.best_model_checkpoint = None  # it would name the folder that was written aside
            trainer.accelerator.wait_for_everyone()  # each rank has written its random state
            if trainer.args.should_save:
                _publish(output, f"checkpoint-{trainer.state.global_step}", self.trained_with)
                _remove_old(output, trainer.args.save_total_limit, trainer.state.best_global_step)
            trainer.accelerator.wait_for_everyone()


def _publish(output: Path, name: str, trained_with: Mapping[str, Any]) -> None:
    """Renames the checkpoint written aside into place, once all of it is on the disk."""
    aside, place = output / SAVING_FOLDER / name, output / name
    (aside / "training_args.bin").unlink(missing_ok=True)  # a pickle, and only a copy of the flags
    if trained_with:
        (aside / TRAINED_WITH_FILE).write_text(json.dumps(trained_with, indent=1), encoding="utf-8")
    note = aside / COMPLETE_FILE
    note.write_text(json.dumps({"step": step_of(place), "files": file_sizes(aside)}), encoding="utf-8")
    for path in (*aside.rglob("*"), aside):
        _sync(path)
    if place.exists():  # of the same step, from before this run was resumed
        shutil.rmtree(place)
    aside.rename(place)
    _sync(output)
    shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_old(output: Path, limit: int | None, best: int | None) -> None:
    """Keeps the newest complete checkpoints, and that of the step `best`; removes older and incomplete ones."""
    complete = complete_checkpoints(output)
    kept = [each for each in complete if each in complete[-(limit or 0) :] or step_of(each) == best]
    for folder in output.glob("checkpoint-*"):
        if step_of(folder) >= 0 and folder not in kept and step_of(folder) < step_of(kept[-1]):
            shutil.rmtree(folder, ignore_errors=True)


def _expected_bytes(trainer: Trainer, output: Path) -> int:
    """The size of the last checkpoint, else of weights and optimiser moments."""
    if last := newest_checkpoint(output):
        return sum(file_sizes(last).values())
    trained = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    return model_bytes(trainer.model) + _ADAM_BYTES * trained


def model_bytes(model: torch.nn.Module) -> int:
    """The size of a saved model, of an adapter without its base."""
    is_adapter = hasattr(model, "peft_config")
    saved = (each for each in model.parameters() if each.requires_grad or not is_adapter)
    return sum(each.numel() * each.element_size() for each in saved)


def move_into_place(aside: Path, output: Path) -> None:
    """Moves everything in `aside` to `output`, one file at a time; no file is ever there in part."""
    for path in aside.iterdir():
        if path.is_file():
            _sync(path)
        elif (output / path.name).is_dir():
            shutil.rmtree(output / path.name)
        path.replace(output / path.name)
    _sync(output)
    shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)


@contextmanager
def full_disk_reported(output: Path, needed: int, *, check_first: bool) -> Iterator[None]:
    """Surrounds a save of `needed` bytes; removes what a failed save wrote aside, and no complete checkpoint.

    Raises:
        RunFailed: the disk is full (reason `disk_full`): with `check_first` before the save starts, or when it fails.
    """
    if check_first and needed > (free := shutil.disk_usage(output).free):
        raise _disk_full(output, needed, free)
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(output).free
        shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)
        if means_full_disk(error) or free < max(needed // 10, _NEARLY_FULL):
            raise _disk_full(output, needed, shutil.disk_usage(output).free) from error
        raise


def means_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, comes from a full disk."""
    while error is not None:
        has_number = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if has_number or "No space left" in str(error) or "quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _disk_full(output: Path, needed: int, free: int) -> RunFailed:
    kept = newest_checkpoint(output)
    problem = f"the disk of {output} is full: a checkpoint needs {size(needed)}, {size(free)} are free"
    left = f"{kept.name} is kept, and `dimba resume` continues from it" if kept else "no checkpoint was written yet"
    return RunFailed(problem, f"free space on it; {left}", reason="disk_full")


def checkpoint_to_resume(name: str | None) -> str | None:
    """The checkpoint of `--resume-from-checkpoint`: the named one, or the newest complete one of an output folder.

    Raises:
        BadInput: it does not exist, or is not complete.
    """
    if name is None:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise BadInput(f"{folder} does not exist", "name a checkpoint-<step> folder", key=RESUME.flag)
    if step_of(folder) < 0:
        return str(_newest_of(folder))
    # Checkpoints of other trainers lack dimba's note; those trainers write this file last.
    is_foreign = not (folder / COMPLETE_FILE).exists() and (folder / "trainer_state.json").is_file()
    if not (is_complete(folder) or is_foreign):
        other = newest_checkpoint(folder.parent)
        hint = f"{other} is complete" if other else "leave it out to start over"
        raise BadInput(f"{folder} is not complete: its run ended while saving it", hint, key=RESUME.flag)
    return str(folder)


def _newest_of(folder: Path) -> Path:
    newest = newest_checkpoint(folder)
    if newest is None:
        raise BadInput(f"no complete checkpoint in {folder}", "leave it out to start over", key=RESUME.flag)
    return newest

"""Checkpoints that are whole or not there: written aside, brought to the disk, renamed; only then do older ones go."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dimba.common.checkpoints import file_sizes, is_whole, newest_whole, step_of, whole_checkpoints
from dimba.common.contract import SAVING_FOLDER, WHOLE_FILE
from dimba.common.errors import BadInput, RunFailed
from dimba.common.units import size

_RESUME = "--resume-from-checkpoint"
_ADAM_BYTES = 8  # a trained weight: both moments, in float32
_HARDLY = 1 << 20  # bytes that are free of a full disk; torch does not say what its own writer ran into


class WholeCheckpoints:
    """Beside one of transformers' trainers, before it in the order of its bases."""

    _aside = False

    def _get_output_dir(self, trial: Any) -> str:
        found: str = super()._get_output_dir(trial)  # type: ignore[misc]  # the trainer beside this
        return str(Path(found, SAVING_FOLDER)) if self._aside else found

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self
        output = Path(trainer.args.output_dir)
        with disk_watched(output, _expected_bytes(trainer, output), first=trainer.args.should_save):
            if trainer.args.should_save:
                shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)  # of a run that was killed while it saved
            trainer.accelerator.wait_for_everyone()
            self._aside = True
            try:
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            finally:
                self._aside = False
            trainer.accelerator.wait_for_everyone()  # each rank has written its random state
            if trainer.args.should_save:
                _settle(output, f"checkpoint-{trainer.state.global_step}")
                _rotate(output, trainer.args.save_total_limit)
            trainer.accelerator.wait_for_everyone()


def _settle(output: Path, name: str) -> None:
    """What was written aside becomes a checkpoint, once all of it is on the disk."""
    aside, place = output / SAVING_FOLDER / name, output / name
    (aside / "training_args.bin").unlink(missing_ok=True)  # a pickle, and only a copy of the flags
    note = aside / WHOLE_FILE
    note.write_text(json.dumps({"step": step_of(place), "files": file_sizes(aside)}), encoding="utf-8")
    for path in (*aside.rglob("*"), aside):
        _sync(path)
    if place.exists():  # of the same step, from before this run went on
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


def _rotate(output: Path, limit: int | None) -> None:
    """Keeps the newest whole ones; what was never whole goes as well."""
    kept = whole_checkpoints(output)[-limit:] if limit else whole_checkpoints(output)
    for folder in output.glob("checkpoint-*"):
        if step_of(folder) >= 0 and folder not in kept and step_of(folder) < step_of(kept[-1]):
            shutil.rmtree(folder, ignore_errors=True)


def _expected_bytes(trainer: Any, output: Path) -> int:
    """What a checkpoint takes: as much as the last one, else weights and the optimiser's moments."""
    if last := newest_whole(output):
        return sum(file_sizes(last).values())
    trained = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    return model_bytes(trainer.model) + _ADAM_BYTES * trained


def model_bytes(model: Any) -> int:
    """What a saved model takes; an adapter is saved without its base."""
    alone = hasattr(model, "peft_config")
    return sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad or not alone)


def move_whole(aside: Path, output: Path) -> None:
    """Everything in `aside` takes its place in `output`, a file at a time, none of them ever half there."""
    for path in aside.iterdir():
        if path.is_file():
            _sync(path)
        elif (output / path.name).is_dir():
            shutil.rmtree(output / path.name)
        path.replace(output / path.name)
    _sync(output)
    shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)


@contextmanager
def disk_watched(output: Path, needed: int, *, first: bool) -> Iterator[None]:
    """A save that needs so many bytes; raises RunFailed (`disk_full`) before it begins or after it broke off.

    What was written aside is taken away again; whole checkpoints are not touched.
    """
    if first and needed > (free := shutil.disk_usage(output).free):
        raise _disk_full(output, needed, free)
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(output).free
        shutil.rmtree(output / SAVING_FOLDER, ignore_errors=True)
        if _says_full(error) or free < max(needed // 10, _HARDLY):
            raise _disk_full(output, needed, shutil.disk_usage(output).free) from error
        raise


def _says_full(error: BaseException | None) -> bool:
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _disk_full(output: Path, needed: int, free: int) -> RunFailed:
    kept = newest_whole(output)
    what = f"the disk of {output} is full: a checkpoint needs {size(needed)}, {size(free)} are free"
    have = f"{kept.name} is kept, and `dimba resume` goes on from it" if kept else "no checkpoint was written yet"
    return RunFailed(what, f"make room; {have}", reason="disk_full")


def where_to_go_on(place: str | None) -> str | None:
    """The checkpoint that `--resume-from-checkpoint` names: itself, or the newest whole one of an output folder.

    Raises:
        BadInput: it is not there, or not whole.
    """
    if place is None:
        return None
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise BadInput(f"{folder} does not exist", "name a checkpoint-<step> folder", key=_RESUME)
    if step_of(folder) < 0:
        newest = newest_whole(folder)
        if newest is None:
            raise BadInput(f"no complete checkpoint in {folder}", "leave it out to start over", key=_RESUME)
        return str(newest)
    # Other trainers leave no note of ours; theirs write this file last.
    foreign = not (folder / WHOLE_FILE).exists() and (folder / "trainer_state.json").is_file()
    if not (is_whole(folder) or foreign):
        other = newest_whole(folder.parent)
        hint = f"{other} is whole" if other else "leave it out to start over"
        raise BadInput(f"{folder} is not complete: its run ended while it was written", hint, key=_RESUME)
    return str(folder)

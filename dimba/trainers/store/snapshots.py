"""Copies of checkpoints that stay while they are sent: hard links, which take no space."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dimba.common.checkpoints import file_sizes, is_complete, newest_checkpoint, step_of
from dimba.common.contract import COMPLETE_FILE, OUTPUT_FILE, OWNER_FILE, SAVING_FOLDER, read_json_object
from dimba.common.output_store import MODEL, SNAPSHOTS
from dimba.trainers.store.bundles import Bundle

_NOT_SENT = (OWNER_FILE, SAVING_FOLDER, SNAPSHOTS)


def identity(checkpoint: Path) -> tuple[str, int]:
    """The name of a checkpoint, and when it was finished: one of the same step may replace it."""
    return checkpoint.name, (checkpoint / COMPLETE_FILE).stat().st_mtime_ns


def newest_and_best(output: Path) -> list[Path]:
    """The newest complete checkpoint, and the best one if it is another."""
    newest = newest_checkpoint(output)
    if newest is None:
        return []
    best = best_of(newest)
    return [newest, best] if best and best != newest and is_complete(best) else [newest]


def best_of(newest: Path) -> Path | None:
    """The folder of the best checkpoint, as the newest one names it; None if the run keeps no best."""
    step = read_json_object(newest / "trainer_state.json").get("best_global_step")
    return newest.with_name(f"checkpoint-{step}") if isinstance(step, int) and step > 0 else None


def snapshot(checkpoint: Path) -> Bundle | None:
    """The checkpoint as it is now, safe from being removed; None if it is gone already."""
    try:
        name, finished = identity(checkpoint)
    except FileNotFoundError:
        return None
    folder = checkpoint.parent / SNAPSHOTS / f"{step_of(checkpoint)}-{finished}"
    if not is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(FileNotFoundError, shutil.Error):
            shutil.copytree(checkpoint, folder, copy_function=_link)
    if not is_complete(folder):
        return None
    files = (*file_sizes(folder), COMPLETE_FILE)
    return Bundle(name, folder, files, folder.with_name(f"{folder.name}.sent.json"))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def remove_snapshots(output: Path, kept: Bundle | None = None) -> None:
    """Removes the copies, but those of `kept`."""
    for path in (output / SNAPSHOTS).glob("*"):
        if kept and path in (kept.folder, kept.note):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        (output / SNAPSHOTS).rmdir()


def trained_model(output: Path) -> Bundle | None:
    """The result of training, as it lies in the output folder; None if there is none."""
    found = _model_files(output) if output.is_dir() else ()
    files = tuple(sorted(str(path.relative_to(output)) for path in found))
    if all(name == OUTPUT_FILE for name in files):
        return None
    return Bundle(MODEL, output, files, output / SNAPSHOTS / "model.sent.json")


def _model_files(output: Path) -> Iterator[Path]:
    for path in output.iterdir():
        if path.name in _NOT_SENT or step_of(path) >= 0:
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from (each for each in path.rglob("*") if each.is_file())

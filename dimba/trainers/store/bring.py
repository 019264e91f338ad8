"""Brings a run, or its newest complete checkpoint, from a store to this machine."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from shlex import quote

from dimba.common.checkpoints import is_complete, newest_checkpoint, step_of
from dimba.common.contract import RUN_FILE, SPEC_FILE
from dimba.common.errors import BadInput
from dimba.common.output_store import RUN, SNAPSHOTS, join
from dimba.common.units import size
from dimba.trainers.store.bundles import Damaged, bring, complete_checkpoints, manifest_of, step_in
from dimba.trainers.store.filesystem import Store
from dimba.trainers.store.snapshots import best_of

Note = Callable[[str], None]
Progress = Callable[[str, int, int], None]
_MOST_RUN_BYTES = 1 << 30  # of one file of the record


def bring_record(store: Store, address: str, folder: Path) -> None:
    """Copies the run's record, metrics and logs; raises BadInput if the address has no run."""
    if store.read(f"{RUN}/{RUN_FILE}") is None or store.read(f"{RUN}/{SPEC_FILE}") is None:
        raise _no_run(store, address)
    for name, count in store.sizes(RUN).items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or count > _MOST_RUN_BYTES:
            continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        store.get_file(f"{RUN}/{name}", folder / path)


def _no_run(store: Store, address: str) -> BadInput:
    runs = [name for name in store.folders() if store.read(f"{name}/{RUN}/{RUN_FILE}") is not None]
    if not runs:
        return BadInput(f"no run at {address}", "give the run's folder in the store: `<output_store>/<run id>`")
    listed = "\n".join(f"  {name}" for name in runs)
    return BadInput(f"{address} has these runs:\n{listed}", f"`dimba resume {quote(join(address, runs[-1]))}`")


def bring_newer(store: Store, output: Path, note: Note, progress: Progress) -> str | None:
    """Copies the newest complete checkpoint if it is newer than the local one, and the best; returns its name."""
    local = newest_checkpoint(output)
    newer = [name for name in complete_checkpoints(store) if local is None or step_in(name) > step_of(local)]
    for name in reversed(newer):
        try:
            _bring_one(store, name, output, progress)
        except Damaged as error:
            note(f"{error}: it is not used")
            continue
        _bring_best(store, output / name, progress)
        return name
    return None


def _bring_best(store: Store, newest: Path, progress: Progress) -> None:
    best = best_of(newest)
    if best and not is_complete(best) and manifest_of(store, best.name) is not None:
        with suppress(Damaged):
            _bring_one(store, best.name, best.parent, progress)


def _bring_one(store: Store, name: str, output: Path, progress: Progress) -> None:
    """Copies a checkpoint beside its place, and renames it once all of it is on the disk and verified."""
    part, place = output / SNAPSHOTS / f"bring-{name}", output / name
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    total, done = sum(each.size for each in (manifest_of(store, name) or {}).values()), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(f"bringing {name} ({size(total)})", done, total)

    try:
        bring(store, name, part, count)
        if not is_complete(part):
            raise Damaged(f"{name} lacks files")
        if place.exists():  # an incomplete one
            shutil.rmtree(place)
        part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            part.parent.rmdir()

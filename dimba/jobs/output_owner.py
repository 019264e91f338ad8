"""Takes the output folder of a run before anything is looked at, and gives it back when the run has ended."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dimba.common.contract import absolute
from dimba.common.errors import DimbaError
from dimba.common.owner import Owner, this_process
from dimba.common.ownership import Ownership, has_ended, take
from dimba.host.output import look_at_output
from dimba.jobs.reconcile import reconciled
from dimba.records import ACTIVE, RunFolder
from dimba.records.store import make_folder

_TRIES = 20


@contextmanager
def owned_output(output_dir: str, run: Path, *, adopts: bool = False) -> Iterator[None]:
    """Holds the output folder for the run of the folder `run`; a run that is active afterwards keeps it.

    With `adopts`, another process of the same run may have taken the folder.

    Raises:
        BadInput: another run, or a trainer, writes there.
    """
    path = absolute(output_dir)
    made = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    ownership = None
    try:
        ownership = _taken(output_dir, run, adopts=adopts)
        yield
    finally:
        if not _is_active(run):
            if ownership:
                ownership.release()
            _remove_empty(made)
        elif ownership:
            ownership.keep()


def _taken(output_dir: str, run: Path, *, adopts: bool) -> Ownership | None:
    """None if the folder is unusable, which the plan reports."""
    facts = look_at_output(output_dir, Path.cwd())
    if facts.problem:
        return None
    me = this_process(run.name, str(run))
    for _ in range(_TRIES):
        make_folder(facts.path, facts.uid, facts.gid)
        try:
            return take(facts.path, me, adopts=adopts, judge=_has_ended)
        except FileNotFoundError:  # a refused launch has just removed the folder that it had made
            continue
        except OSError:
            break
    return None


def _has_ended(folder: Path, owner: Owner) -> bool | None:
    run = Path(owner.run)
    with suppress(DimbaError, OSError):
        if owner.run and (status := run.stat()).st_uid == os.geteuid():  # the runs of others are theirs to close
            reconciled(RunFolder(run, status.st_uid, status.st_gid))
    return has_ended(folder, owner)


def _is_active(run: Path) -> bool:
    with suppress(DimbaError):
        return RunFolder(run, 0, 0).record().status in ACTIVE
    return False


def _remove_empty(made: list[Path]) -> None:
    with suppress(OSError):  # a folder with files in it stays
        for each in made:
            each.rmdir()

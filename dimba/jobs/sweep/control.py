"""Stops and resumes a sweep as a whole."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dimba.common.contract import STOPPED_BY_SWEEP
from dimba.common.errors import BadInput, DimbaError, SeveralErrors, raise_all
from dimba.common.runners import RUNNERS
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.output_owner import owned_output
from dimba.jobs.reconcile import reconciled, stop_run
from dimba.jobs.recorded import launched_here
from dimba.jobs.resume import resume, spec_of
from dimba.jobs.store import has_unsent
from dimba.jobs.supervisor import lock_of, spawn_supervisor
from dimba.jobs.sweep.launch import WAITS_FOR_SWEEP
from dimba.jobs.trust import remember_run, require_trust_in_run
from dimba.records import ACTIVE, RunFolder, RunRecord
from dimba.records.locks import is_held
from dimba.records.sweep import run_folders, sweep_of


def stop_sweep(folder: RunFolder, *, now: bool) -> list[RunRecord]:
    """Starts no further run, and stops all that are active, each as `stop_run` does; returns the runs that it ended.

    Raises:
        BadInput: no run is active.
        SeveralErrors: of the runs that do not obey.
    """
    runs = run_folders(folder, sweep_of(folder))
    active = [each for each in runs if reconciled(each).status in ACTIVE]
    if not active:
        raise BadInput(f"no run of {folder.id} is active", f"`dimba ps --group {folder.id}` shows how they ended")
    folder.request_stop()
    waiting = [each for each in active if not each.record().is_started]  # first, or one takes a GPU that gets free
    ended = _stopped(waiting, now=now)
    return ended + _stopped([each for each in active if each not in waiting], now=now)


def _stopped(runs: Sequence[RunFolder], *, now: bool) -> list[RunRecord]:
    """The runs, stopped together; in threads that a second Ctrl-C need not wait for."""
    found: list[RunRecord | DimbaError] = []

    def stop(run: RunFolder) -> None:
        try:
            found.append(stop_run(run, now=now))
        except BadInput:  # it has just ended
            found.append(run.record())
        except DimbaError as error:
            found.append(error)

    threads = [threading.Thread(target=stop, args=(run,), daemon=True) for run in runs]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if errors := [each for each in found if isinstance(each, DimbaError)]:
        raise SeveralErrors(errors)
    return sorted((each for each in found if isinstance(each, RunRecord)), key=lambda each: (len(each.id), each.id))


def resume_sweep(folder: RunFolder, reporter: Reporter, *, trust: bool = False) -> None:
    """Queues the runs again that did not succeed, but for those that `--stop-worst` stopped, and sends what the store
    lacks of the others.

    Raises:
        BadInput: none is left to run, or the sweep is active.
    """
    runs = run_folders(folder, sweep_of(folder))
    records = {each.id: reconciled(each) for each in runs}
    if any(record.status in ACTIVE for record in records.values()) and is_held(lock_of(folder)):
        hint = f"`dimba ps --group {folder.id}` lists its runs, `dimba stop {folder.id}` stops them"
        raise BadInput(f"sweep {folder.id} is active", hint)
    missing = [each for each in runs if _is_missing(records[each.id])]
    unsent = [each for each in runs if has_unsent(records[each.id])]
    if not missing and not unsent:
        cause = f"every run of {folder.id} has succeeded, or was stopped as one of the worst"
        raise BadInput(cause, _nothing_left(folder))
    if missing:
        folder.clear_stop_request()
        reporter.note(f"continuing {len(missing)} of {len(runs)} runs")
        for each in missing:
            _requeued(each, records[each.id], reporter, trust=trust)
        spawn_supervisor(folder)
    _send(unsent, reporter)


def _send(runs: Sequence[RunFolder], reporter: Reporter) -> None:
    """Sends what the store lacks of runs that succeeded; raises the errors of all that it still does not take."""
    errors = []
    for each in runs:
        reporter.note(f"{each.id}: sending what its store lacks")
        try:
            resume(each, reporter, detach=True)
        except DimbaError as error:
            errors.append(error)
    raise_all(errors)


def _nothing_left(folder: RunFolder) -> str:
    return f"`dimba ps --group {folder.id}` lists them; `dimba resume RUN` continues one that was stopped"


def _is_missing(record: RunRecord) -> bool:
    return record.status not in (*ACTIVE, "succeeded") and record.exit_reason != STOPPED_BY_SWEEP


def _requeued(folder: RunFolder, record: RunRecord, reporter: Reporter, *, trust: bool) -> None:
    """Puts a run back into the queue of its sweep; a scheduler gets it at once."""
    if RUNNERS[record.runner].takes_arrays:
        resume(folder, reporter, detach=True, trust=trust)
        return
    loaded = spec_of(folder, record)
    require_trust_in_run(folder.id, loaded, Path.cwd(), trust=trust)
    remember_run(folder.id, loaded, Path.cwd())
    with owned_output(record.output_dir, folder.path):
        folder.clear_stop_request()
        folder.write_record(
            replace(record, **{**launched_here(), "launcher": None, "waits_for": WAITS_FOR_SWEEP}, status="queued")
        )

"""Reconciles records with the jobs that are running: a killed launcher cannot close its run."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dimba.common.contract import STOPPED_BY_USER
from dimba.common.errors import BadInput, DimbaError, EngineFailed, RunFailed
from dimba.common.ownership import give_back, owner_lives
from dimba.common.processes import is_alive, own_boot, own_host, own_pids
from dimba.common.runners import RUNNERS
from dimba.host.provenance import hub_commits
from dimba.jobs.outcome import classify_outcome, may_retry, proof_of_learning, store_state
from dimba.jobs.recorded import container_of, patience
from dimba.jobs.supervisor import lock_of, spawn_supervisor
from dimba.records import ACTIVE, PENDING, RunFolder, RunRecord
from dimba.records.locks import is_held
from dimba.records.sweep import sweep_folder
from dimba.runners.registry import runner_of

_OBEYS, _POLL = 60.0, 0.2  # seconds
_REVIVES = 10.0  # seconds between two starts of a sweep's supervisor, which takes its lock once it runs
_REVIVED: dict[str, float] = {}


def stop_run(folder: RunFolder, *, now: bool, reason: str = STOPPED_BY_USER) -> RunRecord:
    """Asks a run to save and end, kills it `now` or after a grace; raises BadInput if it is not active.

    `reason` is the exit reason of a run that saves and ends.
    """
    record = reconciled(folder)
    if record.status not in ACTIVE:
        raise BadInput(f"{record.id} does not run: {record.status}", "`dimba ps` lists what does")
    if is_elsewhere(record):
        return _stop_elsewhere(folder, record, now=now)
    if record.status in PENDING and not record.is_started:
        record = _withdraw(folder, record, reason)
        if record.status not in ACTIVE:
            return record
    runner, job = runner_of(record.runner), record.attempts[-1].job
    if runner is None or job is None:
        raise EngineFailed(
            f"{record.id} runs in a container, and no engine answers", "`dimba doctor` checks the engine"
        )
    if reason != STOPPED_BY_USER:
        folder.request_stop(reason)
    folder.write_record(replace(record, status="stopping"))
    runner.stop(job, 0 if now else patience(record))
    runner.wait(job)
    return reconciled(folder)


def _stop_elsewhere(folder: RunFolder, record: RunRecord, *, now: bool) -> RunRecord:
    """Closes the record of a run whose machine no longer exists; raises BadInput unless the user says so with `now`."""
    if not now:
        hint = f"run `dimba stop {record.id}` there; if that machine is gone, `--now` here closes the record"
        raise BadInput(f"{record.id} runs on {record.host}", hint)
    closed = _closed(folder, record, record.closed("lost", "machine_gone", None))
    give_back(Path(record.output_dir), record.id)
    return closed


def _withdraw(folder: RunFolder, record: RunRecord, reason: str) -> RunRecord:
    """Asks the launcher of a run not to start it; returns the record once it obeys or the job runs."""
    folder.request_stop(reason)
    if record.launcher and is_alive(record.launcher):
        with suppress(PermissionError):  # of another user: its launcher reads the request
            os.kill(int(record.launcher.partition(":")[0]), signal.SIGTERM)
    deadline = time.monotonic() + _OBEYS
    while record.status in PENDING and time.monotonic() < deadline:
        if not in_hand(folder, record):
            return _closed(folder, record, record.closed("stopped", reason, None))
        time.sleep(_POLL)
        record = folder.record()
    if record.status in PENDING:
        hint = f"`kill {record.launcher}`" if record.launcher else "try again"
        raise RunFailed(f"{record.id} is being started by a process that does not obey", hint)
    return record


def is_elsewhere(record: RunRecord) -> bool:
    """Whether the run's processes are on another machine, or in a container, where this one does not see them."""
    if not record.boot or (record.is_started and _is_seen_everywhere(record)):
        return False
    if record.boot != own_boot():
        return record.host != own_host()  # the same machine has restarted since
    folder = Path(record.output_dir)
    return record.pids != own_pids() and owner_lives(folder, record.id)


def _is_seen_everywhere(record: RunRecord) -> bool:
    # A scheduler's job; with the same kernel, also a container of its engine.
    can = RUNNERS.get(record.runner)
    return can is not None and (can.several_nodes or (can.uses_engine and record.boot == own_boot()))


def in_hand(folder: RunFolder, record: RunRecord) -> bool:
    """Whether a process is responsible for the run before its job runs: its launcher, or its supervisor."""
    return is_alive(record.launcher) or is_held(lock_of(folder))


def reconciled(folder: RunFolder) -> RunRecord:
    """The run's record; closes it if its job ended unrecorded, or restarts its supervisor."""
    record = folder.record()
    if record.status not in ACTIVE or is_elsewhere(record):
        return record
    record = _reconciled(folder, record)
    if record.status in ACTIVE:
        _keep_sweep(folder, record)
    else:
        give_back(Path(record.output_dir), record.id)
    return record


def _reconciled(folder: RunFolder, record: RunRecord) -> RunRecord:
    try:
        if record.status in PENDING and not record.is_started:
            return _reconciled_start(folder, record)
        return _reconciled_job(folder, record)
    except EngineFailed:
        return record  # the engine does not answer


def _reconciled_start(folder: RunFolder, record: RunRecord) -> RunRecord:
    """A run whose job is not on record: its launcher is alive, its job did start, or both are gone."""
    if in_hand(folder, record):
        return record
    runner = runner_of(record.runner)
    is_unrecorded = record.attempts and not record.attempts[-1].ended
    if is_unrecorded and runner is not None and (job := runner.find(record.id)):
        found = replace(record.with_attempt(job=job), status="running")
        found = replace(found, container_id=container_of(runner, job))
        folder.write_record(found)
        return _reconciled_job(folder, found)
    if folder.has_stop_request():
        return _closed(folder, record, record.closed("stopped", folder.stop_reason, None))
    if record.status == "queued" and _is_mine(folder):
        return _respawned(folder, record)
    return _closed(folder, record, record.closed("failed", "start_failed", None))


def _respawned(folder: RunFolder, record: RunRecord) -> RunRecord:
    """Starts the supervisor of a queued run; that of its sweep starts it in its turn, unless the sweep is stopped."""
    sweep = sweep_folder(folder.path.parent, record.group) if record.group else None
    if sweep is None:
        spawn_supervisor(folder)
    elif sweep.has_stop_request():
        return _closed(folder, record, record.closed("stopped", sweep.stop_reason, None))
    return record


def _keep_sweep(folder: RunFolder, record: RunRecord) -> None:
    """Starts the supervisor of the sweep of an active run again, if it was killed."""
    sweep = sweep_folder(folder.path.parent, record.group) if record.group else None
    if sweep is None or sweep.has_stop_request() or not _is_mine(folder) or is_held(lock_of(sweep)):
        return
    if time.monotonic() - _REVIVED.get(sweep.id, -_REVIVES) >= _REVIVES:
        _REVIVED[sweep.id] = time.monotonic()
        spawn_supervisor(sweep)


def _is_mine(folder: RunFolder) -> bool:
    return os.geteuid() in (0, folder.uid)


def _reconciled_job(folder: RunFolder, record: RunRecord) -> RunRecord:
    runner = runner_of(record.runner)
    if runner is None:
        return record
    job = record.attempts[-1].job or runner.find(record.id)
    if job and runner.is_running(job):
        return _with_turn(folder, record, runner.waiting(job))
    if job:
        for _line in runner.follow(job, folder.log(record.attempts[-1].number)):
            pass  # for a job that could not write its log itself
    ending = runner.wait(job) if job else None
    status, reason, _ = classify_outcome(ending, folder, stopping=record.status == "stopping")
    code = ending.exit_code if ending else folder.last_word().get("exit_code")
    record, before = replace(record, **store_state(folder, record)), record
    if status == "failed" and may_retry(record, status, reason) and _is_mine(folder):
        return before if in_hand(folder, record) else _retried(folder, before, record.retried(reason, code))
    learned = proof_of_learning(folder) if status == "succeeded" else {}
    closed = replace(record.closed(status, reason, code), **hub_commits(folder.plan()), **learned)
    return _closed(folder, before, closed)


def _retried(folder: RunFolder, before: RunRecord, queued: RunRecord) -> RunRecord:
    """Starts a supervisor for the next attempt, unless the run's launcher changed the record in between."""
    written = _closed(folder, before, queued)
    if written == queued:
        spawn_supervisor(folder)
    return written


def _with_turn(folder: RunFolder, record: RunRecord, waits: str | None) -> RunRecord:
    """The record with the scheduler's current state: the job runs, or the reason why it waits."""
    if record.status == "stopping" or waits == record.waits_for:
        return record
    changed = replace(record, status="queued" if waits else "running", waits_for=waits)
    return _closed(folder, record, changed)


def _closed(folder: RunFolder, before: RunRecord, closed: RunRecord) -> RunRecord:
    """Writes the closed record, unless the run's launcher changed it in between."""
    try:
        current = folder.record()
        if current == before:
            folder.write_record(closed)
            return closed
        return current
    except DimbaError:  # a run of another user, or a full disk
        return closed

"""Resuming a run: by a command, or by its supervisor."""

import os
from collections.abc import Sequence
from pathlib import Path

from dimba.common.checkpoints import newest_checkpoint, step_of
from dimba.common.contract import SPEC_FILE
from dimba.common.errors import BadInput
from dimba.jobs.context import JobContext, Policy, gather
from dimba.jobs.launch import carry_on, choices_of, hold
from dimba.jobs.lifecycle import Options, Reporter, Run
from dimba.jobs.output_owner import owned_output
from dimba.jobs.reconcile import reconciled
from dimba.jobs.recorded import launched_here
from dimba.jobs.store import bring_newer, has_unsent, send_rest
from dimba.jobs.supervisor import lock_of
from dimba.jobs.trust import Ask, remember_run, require_trust_in_run
from dimba.options import table
from dimba.plan.flags import flag_for
from dimba.records import ACTIVE, PENDING, RunFolder, RunRecord
from dimba.records.locks import try_lock
from dimba.runners.registry import find_runner
from dimba.spec import LoadedSpec, parse_spec


def resume(
    folder: RunFolder,
    reporter: Reporter,
    *,
    detach: bool,
    trust: bool = False,
    anyway: bool = False,
    ask: Ask | None = None,
) -> RunRecord:
    """Resumes from the newest complete checkpoint with the same spec; without one, starts over.

    What the run began with must be as it was, unless `anyway`. Of a run that succeeded, it sends what its store lacks.
    `ask` confirms a spec that requires trust.

    Raises:
        DimbaError: the run is active, succeeded, or cannot be resumed.
    """
    record = reconciled(folder)
    if has_unsent(record):
        return send_rest(folder, record, recorded_spec(folder, record), reporter)
    record = _resumable(folder)
    with owned_output(record.output_dir, folder.path):
        record = _resumable(folder)  # another `dimba resume` may have been faster
        folder.clear_stop_request()
        return _resume_run(folder, record, reporter, detach=detach, trust=trust, anyway=anyway, ask=ask)


def _resumable(folder: RunFolder) -> RunRecord:
    """The record of a run that may be resumed; raises BadInput."""
    record = reconciled(folder)
    if record.status in ACTIVE:
        hint = f"`dimba logs -f {folder.id}` follows it, `dimba stop {folder.id}` saves and ends it"
        raise BadInput(f"run {folder.id} is {record.status}", hint)
    if record.status == "succeeded":
        raise BadInput(
            f"run {folder.id} succeeded: its model is in {record.output_dir}", "launch a spec to train again"
        )
    return record


def supervise(folder: RunFolder, reporter: Reporter) -> None:
    """Waits for the run's turn, starts it, and stays if it may have to retry."""
    with try_lock(lock_of(folder)) as free:
        record = folder.record()
        if free and record.status in PENDING:
            with owned_output(record.output_dir, folder.path, adopts=True):
                _resume_run(folder, record, reporter, detach=record.retries == 0, waits=True, may_fail=True)


def _resume_run(
    folder: RunFolder,
    record: RunRecord,
    reporter: Reporter,
    *,
    detach: bool,
    trust: bool = False,
    anyway: bool = False,
    waits: bool = False,
    may_fail: bool = False,
    ask: Ask | None = None,
) -> RunRecord:
    run = Run(folder, record)
    with run.closing_on_failure():  # a queued one, which would be started again for ever
        loaded = _trusted(folder, record, trust=trust, ask=ask)
        if record.attempts:
            bring_newer(folder, record, loaded, reporter, anyway=anyway, may_fail=may_fail)
        context = _context(folder, record, loaded, reporter)
        hold(run, context, reporter, anyway=anyway)
        run.check_wanted()
    run.update(**launched_here(), status="queued")
    return carry_on(run, context, reporter, detach=detach, waits=waits)


def _trusted(folder: RunFolder, record: RunRecord, *, trust: bool, ask: Ask | None) -> LoadedSpec:
    loaded = spec_of(folder, record)
    require_trust_in_run(folder.id, loaded, Path.cwd(), trust=trust, ask=ask)
    remember_run(folder.id, loaded, Path.cwd())
    return loaded


def _context(folder: RunFolder, record: RunRecord, loaded: LoadedSpec, reporter: Reporter) -> JobContext:
    newest = newest_checkpoint(Path(record.output_dir)) if record.attempts else None
    choices = choices_of(options_of(record), run_id=folder.id, checkpoint=newest)
    policy = Policy(asks="any", choices=choices, earlier_image=record.image, runs=folder.path.parent)
    context = gather(loaded, find_runner(loaded.spec.runner), policy, reporter.rows)
    if record.attempts:
        reporter.note(_where(newest, takes_it=flag_for(table.RESUME, context.facts.trainer.flags) is not None))
    return context


def options_of(record: RunRecord) -> Options:
    """The options of the run's command line."""
    return Options(**{name: getattr(record, name) for name in vars(Options())})


def spec_of(folder: RunFolder, record: RunRecord, further: Sequence[str] = ()) -> LoadedSpec:
    """The spec as it was launched, with `further` overrides; relative paths keep their meaning."""
    if record.folder:
        try:
            os.chdir(record.folder)
        except OSError as error:
            hint = "relative paths of its spec start there; launch a spec with the new paths instead"
            raise BadInput(f"{folder.id} was launched in {record.folder}: {error.strerror}", hint) from None
    return recorded_spec(folder, record, further)


def recorded_spec(folder: RunFolder, record: RunRecord, further: Sequence[str] = ()) -> LoadedSpec:
    """The spec as it was launched, with `further` overrides; its relative paths start in `record.folder`."""
    path = folder.path / SPEC_FILE
    return parse_spec(path.read_bytes(), source=str(path), overrides=[*record.overrides, *further])


def _where(newest: Path | None, *, takes_it: bool) -> str:
    if newest is None:
        return "no complete checkpoint: it starts over"
    if not takes_it:
        return f"its trainer has no --resume-from-checkpoint: it starts over, without {newest.name}"
    return f"continuing from {newest.name}, after step {step_of(newest)}"

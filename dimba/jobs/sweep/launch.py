"""Launches a sweep: planned, confirmed, put on record, and left to its supervisor."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from dimba.common.contract import OUTPUT_FILE, SPEC_FILE, SWEEP_FILE
from dimba.common.units import quantity, size
from dimba.host.probe import runs_folder
from dimba.host.provenance import provenance
from dimba.jobs.lifecycle import Reporter, Run, interrupted, secrets_of, signals
from dimba.jobs.output_owner import owned_output
from dimba.jobs.store import require_store
from dimba.jobs.supervisor import lock_of, spawn_supervisor
from dimba.jobs.sweep.check import plan_sweep, prepared
from dimba.jobs.sweep.planned import PlannedRun, PlannedSweep, Request
from dimba.jobs.trust import Ask, remember_run
from dimba.jobs.unchanged import made_with
from dimba.objectives.metrics import comparison_warning
from dimba.records.locks import try_lock
from dimba.records.record import now
from dimba.records.store import RunFolder, create_run
from dimba.records.sweep import SweepRecord, SweepRun
from dimba.runners.protocol import ArrayRunner

WAITS_FOR_SWEEP = "its turn in its sweep"


def launch_sweep(request: Request, reporter: Reporter, ask: Ask | None = None) -> RunFolder:
    """Puts the runs of a sweep on record and starts its supervisor, which starts them in their turn.

    Raises:
        DimbaError: a run cannot be launched as it is planned; nothing has been written then.
    """
    with signals(interrupted):
        planned = plan_sweep(request, reporter, ask)
        for line in confirmation(planned, request):
            reporter.note(line)
        planned = prepared(planned, reporter)
        folder = _recorded(planned, request, reporter)
    spawn_supervisor(folder)
    return folder


def confirmation(planned: PlannedSweep, request: Request) -> Iterator[str]:
    """How many runs there are, how many run at a time, and the memory that they need."""
    runs, first = planned.runs, planned.runs[0].plan
    of = ""
    if planned.draw_seed is not None:
        of = f" of {planned.combinations:,} combinations, drawn at random with seed {planned.draw_seed}"
    yield f"sweep {planned.id}: {quantity(len(runs), 'run')}{of}, {_at_a_time(planned)}{_memory(runs)}"
    gpus, machine = len(first.gpus), len(runs[0].context.facts.gpu.gpus)
    leases = planned.runner.capabilities.leases_gpus
    if leases and gpus > 1 and planned.at_once == 1 and len(runs) > 1:
        fewer = f"`--set resources.gpus=1` runs up to {min(machine, len(runs))} of them at a time"
        yield f"each run takes {gpus} of the {machine} GPUs, so they run one after another: {fewer}"
    if leases and not gpus and planned.at_once == 1 and len(runs) > 1:
        yield "on the CPU they run one after another, as each uses all cores: `--sweep-at-once 2` runs two at a time"
    if not planned.metric.on_held_out:
        yield (
            "warning: no rows are held out, so the runs are compared by what they were trained on, a poor judge: "
            "`--set trainer_args.validation-split=0.05` holds some out"
        )
    if warning := comparison_warning(planned.metric, (axis.key for axis in request.axes)):
        yield warning


def _at_a_time(planned: PlannedSweep) -> str:
    if planned.at_once == 0:
        return "as many at a time as the scheduler starts"
    gpus = planned.runs[0].plan.gpus
    each = f" ({quantity(len(gpus), 'GPU')} each)" if gpus else " (on the CPU)"
    return f"{min(planned.at_once, len(planned.runs))} at a time{each}"


def _memory(runs: tuple[PlannedRun, ...]) -> str:
    known = [plan.memory for plan in (run.plan for run in runs) if plan.memory and plan.gpus]
    if not known:
        return ""
    most = max(known, key=lambda each: each.total)
    least = "at least " if most.lower_bound else "up to "
    return f", {least}{size(most.total)} of memory on each GPU (estimated)"


def _recorded(planned: PlannedSweep, request: Request, reporter: Reporter) -> RunFolder:
    """The folder of the sweep, once all of its runs are on record; on a failure nothing of them is left."""
    first = planned.runs[0].plan
    folder = create_run(runs_folder(Path.cwd()), planned.id, first.uid, first.gid)
    with try_lock(lock_of(folder)), ExitStack() as outputs:  # no other command starts it meanwhile
        try:
            _write(planned, request, folder, outputs, reporter)
        except BaseException:
            _remove(planned, folder)  # before the output folders are given back, which stay with runs on record
            raise
    return folder


def _write(
    planned: PlannedSweep,
    request: Request,
    folder: RunFolder,
    outputs: ExitStack,
    reporter: Reporter,
) -> None:
    made_of, runs = _provenance(planned, reporter), list[Run]()
    folder.write_bytes(SPEC_FILE, planned.runs[0].context.loaded.data)
    folder.write_json(SWEEP_FILE, _record(planned, request).as_json())
    for number, (each, facts) in enumerate(zip(planned.runs, made_of, strict=True)):
        reporter.progress("writing the records", number, len(planned.runs))
        outputs.enter_context(owned_output(each.context.spec.output_dir, folder.path.parent / each.id))
        runs.append(_record_run(each, planned.id, request, facts))
    reporter.ended()
    is_array = planned.runner.capabilities.takes_arrays
    for run, each in list(zip(runs, planned.runs, strict=True))[: None if is_array else 1]:
        require_store(run, each.context, reporter)  # the supervisors of the other runs do the same before they start
    if is_array:
        _submit(cast("ArrayRunner", planned.runner), planned, folder, runs)
    else:
        require_store(runs[0], planned.runs[0].context, reporter)  # all runs have it, and each would fail in its turn


def _remove(planned: PlannedSweep, folder: RunFolder) -> None:
    for each in planned.runs:
        (each.plan.output_dir / OUTPUT_FILE).unlink(missing_ok=True)
    for name in (*(each.id for each in planned.runs), planned.id):
        shutil.rmtree(folder.path.parent / name, ignore_errors=True)


def _submit(runner: ArrayRunner, planned: PlannedSweep, folder: RunFolder, runs: Sequence[Run]) -> None:
    """Hands all runs to the scheduler as one array."""
    plans = [run.new_attempt(each.plan) for run, each in zip(runs, planned.runs, strict=True)]
    jobs = runner.start_array(plans, folder.path, secrets_of(plans[0]), at_once=planned.at_once)
    try:
        for run, job in zip(runs, jobs, strict=True):
            run.started(runner, job)
    except BaseException:
        for job in jobs:  # what is on no record must not run
            runner.stop(job, 0)
        raise


def _provenance(planned: PlannedSweep, reporter: Reporter) -> list[dict[str, Any]]:
    """The provenance of each run; runs of the same base, data and trainer share it."""
    known: dict[str, dict[str, Any]] = {}
    found = []
    for each in planned.runs:
        facts, plan = each.context.facts, each.plan
        key = repr((facts.checkpoint.reference, facts.data, facts.trainer.path, facts.named, plan.host_environment))
        if key not in known:
            known[key] = provenance(facts, plan.host_environment, reporter.progress)
        found.append(known[key] | made_with(plan, each.context.loaded.data))
    reporter.ended()
    return found


def _record(planned: PlannedSweep, request: Request) -> SweepRecord:
    return SweepRecord(
        id=planned.id,
        name=planned.spec.name,
        keys=tuple(axis.key for axis in request.axes),
        runs=tuple(
            SweepRun(id=each.id, values=each.combination.values, by_best=each.context.spec.training.save_best)
            for each in planned.runs
        ),
        combinations=planned.combinations,
        draw_seed=planned.draw_seed,
        at_once=planned.at_once,
        ahead=planned.ahead,
        scheduled=planned.runner.capabilities.takes_arrays,
        stop_worst=request.stop_worst,
        metric=planned.metric.key,
        command=("dimba", *sys.argv[1:]),
        created=now(),
    )


def _record_run(each: PlannedRun, sweep_id: str, request: Request, made_of: dict[str, Any]) -> Run:
    """A queued run that no process is responsible for yet: the supervisor of its sweep starts it."""
    context = each.context
    run = Run.create(each.plan, context.loaded, context.facts, request.options, made_of, run_id=each.id)
    trusted = remember_run(each.id, context.loaded, context.facts.folder)
    run.update(group=sweep_id, launcher=None, waits_for=WAITS_FOR_SWEEP, trusted=trusted)
    return run

"""The use case: gather → plan → record → prepare → start → follow → close."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.common.checkpoints import newest_checkpoint
from dimba.host.probe import runs_folder
from dimba.host.provenance import provenance
from dimba.jobs.context import JobContext, Policy, gather
from dimba.jobs.gpu_leases import GpuLeases, Holder, machine, waiting_for, wanted_by
from dimba.jobs.lifecycle import Options, Reporter, Run, interrupted, signals
from dimba.jobs.output_owner import owned_output
from dimba.jobs.recipes.launching import check_of_recipe
from dimba.jobs.store import require_store
from dimba.jobs.supervisor import spawn_supervisor
from dimba.jobs.trust import Ask, remember_run, require_trust
from dimba.jobs.unchanged import differences, made_with, present, refuse, uncompared
from dimba.plan.build import Choices
from dimba.plan.model import LaunchPlan
from dimba.records import RunRecord
from dimba.records.store import new_run_id
from dimba.runners.registry import find_runner
from dimba.spec import LoadedSpec

# (plan, provenance fields) → further fields; raises BadInput if the run would differ
Repeats = Callable[[LaunchPlan, dict[str, Any]], dict[str, Any]]


def launch(
    loaded: LoadedSpec,
    reporter: Reporter,
    options: Options | None = None,
    *,
    detach: bool = False,
    trust: bool = False,
    anyway: bool = False,
    ask: Ask | None = None,
) -> RunRecord:
    """Runs a spec to its end; with `detach`, until its job has started or waits for GPUs.

    A spec that requires trust is launched only with `trust`, or if `ask` confirms it; a recipe on another base, data or
    code than its own only `anyway`.

    Raises:
        DimbaError: its exit status says what failed, as the run's record does.
    """
    require_trust(loaded, Path.cwd(), trust=trust, ask=ask)
    options = options or Options()
    run = runs_folder(Path.cwd()) / new_run_id(loaded.spec.name)
    with owned_output(loaded.spec.output_dir, run):
        policy = Policy(asks="any", choices=choices_of(options, run_id=run.name))
        context = gather(loaded, find_runner(loaded.spec.runner), policy, reporter.rows)
        check = check_of_recipe(context, reporter, anyway=anyway)
        return begin(context, options, reporter, detach=detach, repeats=check)


def begin(
    context: JobContext, options: Options, reporter: Reporter, *, detach: bool, repeats: Repeats | None = None
) -> RunRecord:
    """Plans the job, records its provenance and carries it on; `repeats` compares it with the run that it repeats.

    The caller owns the output folder for the run that the context names.
    """
    plan = context.assuming_flags().plan()
    if not context.runner.can_train():
        context.runner.prepare(context.spec, reporter.progress)  # raises with the command that installs the packages
    for note in plan.start_notes:
        reporter.note(note)
    made_of = provenance(context.facts, plan.host_environment, reporter.progress)
    made_of |= made_with(plan, context.loaded.data)
    reporter.ended()
    if repeats:
        made_of |= repeats(plan, made_of)
    run = Run.create(plan, context.loaded, context.facts, options, made_of, run_id=context.choices.run_id)
    run.update(trusted=remember_run(run.folder.id, context.loaded, context.facts.folder))
    return carry_on(run, context, reporter, detach=detach)


def choices_of(options: Options, *, run_id: str | None = None, checkpoint: Path | None = None) -> Choices:
    """The command line's part of a plan."""
    return Choices(
        allow_cpu=options.allow_cpu,
        gpu_path=os.environ.get(contract.ENV_GPU_PATH),
        time_limit=options.time_limit,
        kill_hung=options.restart_hung,
        run_id=run_id,
        checkpoint=checkpoint,
    )


def carry_on(run: Run, context: JobContext, reporter: Reporter, *, detach: bool, waits: bool = False) -> RunRecord:
    """Runs the job of a record to its end, with retries; with `detach`, until the job runs.

    A detached run that has to wait (unless it `waits` here), or may have to retry, is left to a supervisor.
    """
    supervised = detach and run.record.retries > 0
    with run.closing_on_failure():
        with signals(interrupted):
            context = _prepared(run, context, reporter)
            require_store(run, context, reporter)
        leased = context.plan().gpus and context.runner.capabilities.leases_gpus
        leases = GpuLeases(Holder.of_run(run.folder), context.runner.name, machine()) if leased else None
        with signals(interrupted):
            gpu_ids = _gpu_ids(run, context, leases, reporter, wait=waits or not detach)
        if gpu_ids is None or supervised:
            spawn_supervisor(run.folder)
            return run.record
        _attempt(run, context.with_gpus(gpu_ids), leases, reporter, detach=detach)
    return run.record


def hold(run: Run, context: JobContext, reporter: Reporter, *, anyway: bool = False) -> None:
    """Refuses to continue with another base, data, trainer, batch or software; with `anyway`, notes what has changed.

    Raises:
        BadInput: something has changed since the run began.
    """
    plan, record = context.plan(), run.record
    made_of = provenance(context.facts, plan.host_environment, reporter.progress)
    reporter.ended()
    now = present(record, plan, made_of | made_with(plan, context.loaded.data))
    for text in uncompared(record, now) if record.attempts else ():
        reporter.note(text)
    found = differences(record, run.folder.plan(), plan, now)
    if found and not anyway:
        raise refuse(record.id, found)
    if found:
        texts = [str(each) for each in found]
        reporter.note(f"continuing all the same (--anyway): {'; '.join(texts)}")
        departure = {"attempt": len(record.attempts) + 1, "differences": texts}
        kept = {name: value for name, value in now.items() if value is not None and not name.startswith("git_")}
        run.update(**kept, departures=(*record.departures, departure))


def _prepared(run: Run, context: JobContext, reporter: Reporter) -> JobContext:
    if context.is_prepared:
        return context
    run.update(status="building")
    context = context.prepared(reporter.progress)
    reporter.ended()
    return context


def _gpu_ids(
    run: Run, context: JobContext, leases: GpuLeases | None, reporter: Reporter, *, wait: bool
) -> tuple[str, ...] | None:
    """The GPUs that the run may use; None if it would have to wait and `wait` is False."""
    plan = context.plan()
    if leases is None:
        return plan.gpu_ids
    if run.record.share:
        leases.take(plan.gpu_ids)
        return plan.gpu_ids
    wanted = wanted_by(context.spec, plan, context.facts)
    answer = leases.ask(wanted)
    if answer.gpus is not None:
        return answer.gpus

    def say(text: str) -> None:
        run.update(status="queued", waits_for=text)
        reporter.note(f"waiting for its turn: {text} (`--share` would not wait)")

    if not wait:
        say(waiting_for(answer))
        return None
    return leases.wait(wanted, say)


def _attempt(run: Run, context: JobContext, leases: GpuLeases | None, reporter: Reporter, *, detach: bool) -> None:
    """Starts the job and follows it; retries after a transient failure if the run has retries left."""
    with signals(run.interrupt):
        try:
            job = run.start(context.runner, context.plan(), reporter)
            if leases:
                leases.hand_over(job)
            if detach and run.events.empty():
                return
            failure = run.follow(context.runner, job, reporter)
        finally:
            if leases and not (detach and run.record.status == "running"):
                leases.give_back()
    if failure is None:
        return
    reporter.note(f"{failure.message}: attempt {len(run.record.attempts) + 1} of {run.record.retries + 1}")
    with signals(interrupted):
        hold(run, context, reporter)
    newest = newest_checkpoint(context.plan().output_dir)
    carry_on(run, context.resumed_from(newest), reporter, detach=detach)

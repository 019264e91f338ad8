"""The commands: each turns its arguments into one call and prints the result."""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.cli import render
from dimba.cli.plan_page import show_plan, trust_notes
from dimba.cli.tokens import show_data
from dimba.common.errors import BadInput, DimbaError
from dimba.common.runners import RENDERED
from dimba.records import ACTIVE, RunFolder, all_runs, find_run
from dimba.records.record import RunRecord
from dimba.spec import LoadedSpec, documents_yaml, json_schema, load_spec

if TYPE_CHECKING:
    from dimba.plan.model import LaunchPlan


def validate(args: argparse.Namespace) -> int:
    """Print every problem of every file; returns 2 if there is one."""
    problems: list[DimbaError] = []
    for path in args.specs:
        try:
            load_spec(Path(path))
        except BadInput as error:
            problems.append(error)
    for problem in problems:
        render.print_error(problem)
    if not problems:
        count = f"{len(args.specs)} spec{'s' if len(args.specs) > 1 else ''}"
        render.note(f"{count}, no problems; `dimba plan` checks the files and the machine too")
    return BadInput.exit_status if problems else 0


def schema(args: argparse.Namespace) -> None:
    """Print the JSON Schema of a job spec."""
    _print_json(json_schema())


def plan(args: argparse.Namespace) -> None:
    """Print the launch plan."""
    from dimba.jobs.context import Policy, gather
    from dimba.jobs.launch import choices_of
    from dimba.jobs.lifecycle import Options, interrupted, signals
    from dimba.runners.registry import find_runner

    if args.runner in RENDERED:
        return _print_manifests(args)
    reporter = render.reporter()
    with signals(interrupted):
        loaded, choices = _load(args), choices_of(Options(allow_cpu=args.allow_cpu))
        policy = Policy(asks="any" if args.trust_spec else "own", tokenises=True, choices=choices)
        context = gather(loaded, find_runner(loaded.spec.runner), policy, reporter.rows)
    reporter.ended()
    launch_plan = context.plan()
    if launch_plan.slurm:
        return _print_slurm_script(launch_plan, context.facts.runs, as_json=args.json)
    if args.json:
        _print_json(launch_plan.as_json())
    else:
        show_plan(launch_plan, render.output_console())
        if launch_plan.data.report:
            show_data(launch_plan.data.report, render.output_console())


def _print_slurm_script(launch_plan: "LaunchPlan", runs: Path, *, as_json: bool) -> None:
    from dimba.plan.slurm import slurm_script

    script = slurm_script(launch_plan.for_attempt("RUN", runs / "RUN" / "attempts" / "1"))  # the run has no id yet
    for note in (*launch_plan.notes, *trust_notes(launch_plan)):
        render.note(note)
    if as_json:
        _print_json({**launch_plan.as_json(), "script": script})
    else:
        sys.stdout.write(script)


def _print_manifests(args: argparse.Namespace) -> None:
    from dimba.commands.kubernetes import render as render_job

    reporter = render.reporter()
    manifests = render_job(load_spec(Path(args.spec), args.set), reporter.rows)
    reporter.ended()
    for note in manifests.notes:
        render.note(note)
    if args.json:
        _print_json({"apiVersion": "v1", "kind": "List", "items": manifests.objects})
    else:
        sys.stdout.write(documents_yaml(manifests.objects))


def data(args: argparse.Namespace) -> int:
    """Print the data as the model will see them; returns 2 if no row is trained on."""
    from dimba.commands.data import look_at_data
    from dimba.jobs.lifecycle import interrupted, signals

    with signals(interrupted):  # an interrupt must remove the container
        report = look_at_data(_load(args), render.reporter(), trust=args.trust_spec)
    if args.json:
        _print_json(report.as_json())
    else:
        show_data(report, render.output_console())
    return 0 if report.examples else BadInput.exit_status


def launch(args: argparse.Namespace) -> None:
    """Run a spec, or repeat a run."""
    if args.same_as:
        _repeat(args)
        return
    from dimba.jobs.launch import launch as launch_spec
    from dimba.jobs.lifecycle import Options

    options = Options(
        allow_cpu=args.allow_cpu,
        share=args.share,
        retries=max(args.retries, int(args.restart_hung)),
        time_limit=args.time_limit,
        restart_hung=args.restart_hung,
    )
    started = time.monotonic()
    ask = render.ask_for_trust if render.can_ask() else None
    record = launch_spec(_load(args), render.reporter(), options, detach=args.detach, trust=args.trust_spec, ask=ask)
    _show_start_or_end(record, started, detached=args.detach)


def _repeat(args: argparse.Namespace) -> None:
    from dimba.jobs.repeat import repeat

    started = time.monotonic()
    folder = find_run(_runs(), args.same_as)
    record = repeat(folder, _overrides(args), render.reporter(), detach=args.detach, trust=args.trust_spec)
    _show_start_or_end(record, started, detached=args.detach)


def launch_now(path: str, *, allow_cpu: bool) -> None:
    """Run the spec that the wizard has just written."""
    from dimba.jobs.launch import launch as launch_spec
    from dimba.jobs.lifecycle import Options

    started = time.monotonic()
    record = launch_spec(load_spec(Path(path)), render.reporter(), Options(allow_cpu=allow_cpu), trust=True)
    render.show_ending(record, time.monotonic() - started)


def resume(args: argparse.Namespace) -> None:
    """Continue a run from its newest complete checkpoint."""
    from dimba.jobs.resume import resume as resume_run

    started = time.monotonic()
    folder = find_run(_runs(), args.run)
    record = resume_run(folder, render.reporter(), detach=args.detach, trust=args.trust_spec, anyway=args.anyway)
    _show_start_or_end(record, started, detached=args.detach)


def _show_start_or_end(record: RunRecord, started: float, *, detached: bool) -> None:
    if not detached:
        render.show_ending(record, time.monotonic() - started)
        return
    from dimba.jobs.supervisor import until_started

    until_started(find_run(_runs(), record.id))
    _print(record.id)


def _attend(args: argparse.Namespace) -> None:
    """Supervise a detached run, in a process of its own."""
    from dimba.jobs.resume import supervise

    supervise(find_run(_runs(), args.run), render.quiet_reporter())


def ps(args: argparse.Namespace) -> None:
    """List runs, reconciled with the jobs that are really running."""
    folders = all_runs(_runs())
    records = [record for folder in folders if (record := _readable(folder))]
    shown = [record for record in records if args.all or record.status in ACTIVE]
    if args.json:
        # The diff can be long; run.json has it.
        _print_json([replace(record, git_diff=None).as_json() for record in shown])
    elif shown:
        render.show_runs(shown)
    else:
        ended = len(records)
        render.note(f"no run is active; `dimba ps -a` lists {ended} ended" if ended else "no runs here yet")


def _readable(folder: RunFolder) -> RunRecord | None:
    """The reconciled record; None, with a note, if it is broken: it must not hide the others."""
    from dimba.jobs.reconcile import reconciled

    try:
        return reconciled(folder)
    except BadInput as error:
        render.note(f"skipped: {error.message}")
        return None


def stop(args: argparse.Namespace) -> None:
    """Stop a run after it saves a checkpoint, and wait for its end."""
    from dimba.jobs.reconcile import stop_run

    record = stop_run(find_run(_runs(), args.run), now=args.now)
    render.note(f"{record.id}: {record.status}, {record.exit_reason}")


def logs(args: argparse.Namespace) -> None:
    """Print the log of a run."""
    from dimba.jobs.reconcile import reconciled

    folder = find_run(_runs(), args.run)
    number = len(folder.record().attempts)
    if not number:
        record = folder.record()
        raise BadInput(f"{folder.id} never started ({record.exit_reason or record.status})", "launch it again")
    with folder.log(number).open(encoding="utf-8", errors="replace") as log:
        while True:
            active = args.follow and reconciled(folder).status in ACTIVE
            for line in log:
                sys.stdout.write(line)
            sys.stdout.flush()
            if not active:
                return
            time.sleep(0.3)


def demo(args: argparse.Namespace) -> None:
    """Run the demo and print its result."""
    from dimba.commands.demo import run_demo

    result = run_demo(render.reporter(), Path.cwd())
    run = RunFolder(_runs() / result.record.id, 0, 0)
    if args.json:
        _print_json({"run_id": run.id, "loss_before": result.loss_before, "loss_after": result.loss_after})
    else:
        render.show_demo(result, run.path)


def doctor(args: argparse.Namespace) -> int:
    """Print every check; returns 4 if the engine's has an error, 3 if another one has."""
    from dimba.commands.doctor import examine
    from dimba.jobs.lifecycle import interrupted, signals

    checks = []
    with signals(interrupted):  # an interrupt must remove the container
        for check in examine(Path.cwd()):
            checks.append(check)
            if not args.json:
                render.show_check(check)
    if args.json:
        _print_json([vars(check) for check in checks])
    errors = [check.name for check in checks if check.status == "error"]
    return (4 if "engine" in errors else 3) if errors else 0


def _load(args: argparse.Namespace) -> LoadedSpec:
    if args.runner in RENDERED:
        apply = f"`dimba plan {shlex.quote(args.spec)} --runner {args.runner} | kubectl apply -f -`"
        raise BadInput(f"--runner {args.runner}: dimba renders manifests but starts nothing on a cluster", apply)
    return load_spec(Path(args.spec), _overrides(args))


def _overrides(args: argparse.Namespace) -> list[str]:
    return [*args.set, *([f"runner={args.runner}"] if args.runner else [])]


def _runs() -> Path:
    from dimba.host.probe import runs_folder

    return runs_folder(Path.cwd())


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2, ensure_ascii=False))

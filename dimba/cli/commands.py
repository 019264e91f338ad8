"""What each command does: arguments → a call → what is shown."""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.cli import render
from dimba.cli.tokens import show_data
from dimba.common.errors import BadInput, DimbaError
from dimba.common.runners import RENDERED
from dimba.records import ACTIVE, RunFolder, all_runs, find_run
from dimba.records.record import RunRecord
from dimba.spec import LoadedSpec, documents_yaml, json_schema, load_spec

if TYPE_CHECKING:
    from dimba.plan.model import LaunchPlan


def validate(args: argparse.Namespace) -> int:
    """Every problem of every file; 2 where there is one."""
    problems: list[DimbaError] = []
    for path in args.specs:
        try:
            load_spec(Path(path))
        except BadInput as error:
            problems.append(error)
    for problem in problems:
        render.say_error(problem)
    if not problems:
        count = f"{len(args.specs)} spec{'s' if len(args.specs) > 1 else ''}"
        render.note(f"{count}, no problems; `dimba plan` looks at the files and the machine too")
    return BadInput.exit_status if problems else 0


def schema(args: argparse.Namespace) -> None:
    """The JSON Schema."""
    _print_json(json_schema())


def plan(args: argparse.Namespace) -> None:
    """What would run."""
    from dimba.jobs.context import Policy, gather
    from dimba.jobs.launch import choices_of
    from dimba.jobs.lifecycle import Options, interrupted, signals
    from dimba.runners.registry import find_runner

    if args.runner in RENDERED:
        return _manifests(args)
    reporter = render.reporter()
    with signals(interrupted):
        loaded, choices = _load(args), choices_of(Options(allow_cpu=args.allow_cpu))
        policy = Policy(asks="any" if args.trust_spec else "own", tokenises=True, choices=choices)
        context = gather(loaded, find_runner(loaded.spec.runner), policy, reporter.rows)
    reporter.ended()
    made = context.plan()
    if made.slurm:
        return _script(made, context.facts.runs, as_json=args.json)
    if args.json:
        _print_json(made.as_json())
    else:
        render.show_plan(made)
        if made.data.report:
            show_data(made.data.report, render.output_console())


def _script(made: "LaunchPlan", runs: Path, *, as_json: bool) -> None:
    """What `sbatch` would take; the run has no name yet."""
    from dimba.plan.slurm import slurm_script

    script = slurm_script(made.for_attempt("RUN", runs / "RUN" / "attempts" / "1"))
    trust = [f"launch asks first, or wants --trust-spec: {each}" for each in made.trust]
    for note in (*made.notes, *trust):
        render.note(note)
    if as_json:
        _print_json({**made.as_json(), "script": script})
    else:
        sys.stdout.write(script)


def _manifests(args: argparse.Namespace) -> None:
    """What would run on a cluster, for `kubectl apply`."""
    from dimba.commands.kubernetes import render as render_job

    reporter = render.reporter()
    made = render_job(load_spec(Path(args.spec), args.set), reporter.rows)
    reporter.ended()
    for note in made.notes:
        render.note(note)
    if args.json:
        _print_json({"apiVersion": "v1", "kind": "List", "items": made.objects})
    else:
        sys.stdout.write(documents_yaml(made.objects))


def data(args: argparse.Namespace) -> int:
    """The data as the model will see them; 0 as long as something is trained."""
    from dimba.commands.data import look_at_data
    from dimba.jobs.lifecycle import interrupted, signals

    with signals(interrupted):  # a throw-away container is taken away again
        report = look_at_data(_load(args), render.reporter(), trust=args.trust_spec)
    if args.json:
        _print_json(report.as_json())
    else:
        show_data(report, render.output_console())
    return 0 if report.examples else BadInput.exit_status


def launch(args: argparse.Namespace) -> None:
    """Runs it."""
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
    """Runs a spec as it is, as the wizard offers to."""
    from dimba.jobs.launch import launch as launch_spec
    from dimba.jobs.lifecycle import Options

    started = time.monotonic()
    record = launch_spec(load_spec(Path(path)), render.reporter(), Options(allow_cpu=allow_cpu), trust=True)
    render.show_ending(record, time.monotonic() - started)


def resume(args: argparse.Namespace) -> None:
    """Goes on with a run."""
    from dimba.jobs.resume import resume as resume_run

    started = time.monotonic()
    record = resume_run(find_run(_runs(), args.run), render.reporter(), detach=args.detach, trust=args.trust_spec)
    _show_start_or_end(record, started, detached=args.detach)


def _show_start_or_end(record: RunRecord, started: float, *, detached: bool) -> None:
    if not detached:
        render.show_ending(record, time.monotonic() - started)
        return
    from dimba.jobs.supervisor import until_started

    until_started(find_run(_runs(), record.id))
    _print(record.id)


def _attend(args: argparse.Namespace) -> None:
    """A process of ours beside a detached run."""
    from dimba.jobs.resume import supervise

    supervise(find_run(_runs(), args.run), render.quiet_reporter())


def ps(args: argparse.Namespace) -> None:
    """Runs and their state, after a look at what is really running."""
    folders = all_runs(_runs())
    records = [record for folder in folders if (record := _readable(folder))]
    shown = [record for record in records if args.all or record.status in ACTIVE]
    if args.json:
        # A diff is for run.json: whoever lists runs reads the rest.
        _print_json([replace(record, git_diff=None).as_json() for record in shown])
    elif shown:
        render.show_runs(shown)
    else:
        ended = len(records)
        render.note(f"no run is active; `dimba ps -a` lists {ended} that ended" if ended else "no runs here yet")


def _readable(folder: RunFolder) -> RunRecord | None:
    """One broken record must not hide the others."""
    from dimba.jobs.reconcile import reconciled

    try:
        return reconciled(folder)
    except BadInput as error:
        render.note(f"left out: {error.message}")
        return None


def stop(args: argparse.Namespace) -> None:
    """Tells a run to save and end, and waits until it has."""
    from dimba.jobs.reconcile import stop_run

    record = stop_run(find_run(_runs(), args.run), now=args.now)
    render.note(f"{record.id}: {record.status}, {record.exit_reason}")


def logs(args: argparse.Namespace) -> None:
    """A run's log, from disk."""
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
    """The demo, and what came of it."""
    from dimba.commands.demo import run_demo

    result = run_demo(render.reporter(), Path.cwd())
    run = RunFolder(_runs() / result.record.id, 0, 0)
    if args.json:
        _print_json({"run_id": run.id, "loss_before": result.loss_before, "loss_after": result.loss_after})
    else:
        render.show_demo(result, run.path)


def doctor(args: argparse.Namespace) -> int:
    """The checks; 4 where no engine answers, 3 where something else is in a job's way."""
    from dimba.commands.doctor import examine
    from dimba.jobs.lifecycle import interrupted, signals

    checks = []
    with signals(interrupted):  # a throw-away container is taken away again
        for check in examine(Path.cwd()):
            checks.append(check)
            if not args.json:
                render.show_check(check)
    if args.json:
        _print_json([vars(check) for check in checks])
    wrong = [check.name for check in checks if check.status == "error"]
    return (4 if "engine" in wrong else 3) if wrong else 0


def _load(args: argparse.Namespace) -> LoadedSpec:
    if args.runner in RENDERED:
        apply = f"`dimba plan {shlex.quote(args.spec)} --runner {args.runner} | kubectl apply -f -`"
        raise BadInput(f"--runner {args.runner}: dimba renders for a cluster, and starts nothing on one", apply)
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

"""The commands: each turns its arguments into one call and prints the result."""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.cli import render
from dimba.cli.pack import differences_of, found_here
from dimba.cli.plan_page import show_plan, trust_notes
from dimba.cli.runs import print_json, runs, show_start_or_end
from dimba.cli.tokens import show_data
from dimba.common.errors import BadInput, DimbaError
from dimba.common.runners import RENDERED
from dimba.records import RunFolder, find_run
from dimba.spec import LoadedSpec, documents_yaml, json_schema, load_spec

if TYPE_CHECKING:
    from dimba.jobs.lifecycle import Options
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
    print_json(json_schema())


def plan(args: argparse.Namespace) -> None:
    """Print the launch plan."""
    from dimba.jobs.context import Policy, gather
    from dimba.jobs.launch import choices_of
    from dimba.jobs.lifecycle import Options, interrupted, signals
    from dimba.runners.registry import find_runner

    if args.runner in RENDERED and args.same_as:
        raise BadInput(f"--same-as compares this machine, and not what --runner {args.runner} renders", "leave one out")
    if args.runner in RENDERED:
        return _print_manifests(args)
    reporter = render.reporter()
    with signals(interrupted):
        loaded, choices = _load(args), choices_of(Options(allow_cpu=args.allow_cpu))
        policy = Policy(asks="any" if args.trust_spec else "own", tokenises=True, choices=choices)
        context = gather(loaded, find_runner(loaded.spec.runner), policy, reporter.rows)
    reporter.ended()
    if args.same_as:
        return differences_of(context, args, reporter)
    launch_plan = context.plan()
    if launch_plan.slurm:
        return _print_slurm_script(launch_plan, context.facts.runs, as_json=args.json)
    if args.json:
        print_json(launch_plan.as_json())
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
        print_json({**launch_plan.as_json(), "script": script})
    else:
        sys.stdout.write(script)


def _print_manifests(args: argparse.Namespace) -> None:
    from dimba.commands.kubernetes import render as render_job

    reporter = render.reporter()
    loaded = found_here(load_spec(Path(args.spec), args.set))
    manifests = render_job(loaded, reporter.rows)
    reporter.ended()
    if loaded.recipe:
        render.note("the recipe's base and data are not compared with the cluster's")
    for note in manifests.notes:
        render.note(note)
    if args.json:
        print_json({"apiVersion": "v1", "kind": "List", "items": manifests.objects})
    else:
        sys.stdout.write(documents_yaml(manifests.objects))


def data(args: argparse.Namespace) -> int:
    """Print the data as the model will see them; returns 2 if no row is trained on."""
    from dimba.commands.data import look_at_data
    from dimba.jobs.lifecycle import interrupted, signals

    with signals(interrupted):  # an interrupt must remove the container
        report = look_at_data(_load(args), render.reporter(), trust=args.trust_spec)
    if args.json:
        print_json(report.as_json())
    else:
        show_data(report, render.output_console())
    return 0 if report.examples else BadInput.exit_status


def launch(args: argparse.Namespace) -> int:
    """Run a spec or a sweep of it, or repeat a run."""
    from dimba.cli import sweep

    if args.anyway and (args.sweep or args.same_as):
        raise BadInput("--anyway is of a recipe, and no recipe is launched", "leave it out")
    if sweep.is_asked_for(args):
        return sweep.launch(args, _options(args), _overrides(args))
    if args.same_as:
        return _repeat(args)
    from dimba.jobs.launch import launch as launch_spec

    started = time.monotonic()
    ask = render.ask_for_trust if render.can_ask() else None
    loaded, how = _load(args), {"detach": args.detach, "trust": args.trust_spec, "anyway": args.anyway}
    if args.anyway and loaded.recipe is None:
        raise BadInput(f"--anyway: {args.spec} is no recipe, so that nothing is compared", "leave it out")
    record = launch_spec(loaded, render.reporter(), _options(args), ask=ask, **how)
    return show_start_or_end(record, started, detached=args.detach)


def _options(args: argparse.Namespace) -> "Options":
    from dimba.jobs.lifecycle import Options

    return Options(
        allow_cpu=args.allow_cpu,
        share=args.share,
        retries=max(args.retries, int(args.restart_hung)),
        time_limit=args.time_limit,
        restart_hung=args.restart_hung,
    )


def _repeat(args: argparse.Namespace) -> int:
    from dimba.jobs.repeat import repeat

    started = time.monotonic()
    folder = find_run(runs(), args.same_as)
    record = repeat(folder, _overrides(args), render.reporter(), detach=args.detach, trust=args.trust_spec)
    return show_start_or_end(record, started, detached=args.detach)


def launch_now(path: str, *, allow_cpu: bool) -> None:
    """Run the spec that the wizard has just written."""
    from dimba.jobs.launch import launch as launch_spec
    from dimba.jobs.lifecycle import Options

    started = time.monotonic()
    record = launch_spec(load_spec(Path(path)), render.reporter(), Options(allow_cpu=allow_cpu), trust=True)
    render.show_ending(record, time.monotonic() - started)


def demo(args: argparse.Namespace) -> None:
    """Run the demo and print its result."""
    from dimba.commands.demo import run_demo

    result = run_demo(render.reporter(), Path.cwd())
    run = RunFolder(runs() / result.record.id, 0, 0)
    if args.json:
        print_json({"run_id": run.id, "loss_before": result.loss_before, "loss_after": result.loss_after})
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
        print_json([vars(check) for check in checks])
    errors = [check.name for check in checks if check.status == "error"]
    return (4 if "engine" in errors else 3) if errors else 0


def _load(args: argparse.Namespace) -> LoadedSpec:
    if args.runner in RENDERED:
        apply = f"`dimba plan {shlex.quote(args.spec)} --runner {args.runner} | kubectl apply -f -`"
        raise BadInput(f"--runner {args.runner}: dimba renders manifests but starts nothing on a cluster", apply)
    return found_here(load_spec(Path(args.spec), _overrides(args)))


def _overrides(args: argparse.Namespace) -> list[str]:
    return [*args.set, *([f"runner={args.runner}"] if args.runner else [])]

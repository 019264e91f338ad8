"""The commands on runs and sweeps that exist already."""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.cli import render
from dimba.common.errors import BadInput
from dimba.common.output_store import is_address
from dimba.records import ACTIVE, RunFolder, all_runs, find_run
from dimba.records.record import RunRecord
from dimba.records.sweep import find_sweep, sweep_folder

if TYPE_CHECKING:
    from dimba.cli.live import LaunchReporter


def resume(args: argparse.Namespace) -> int:
    """Continue a run from its newest complete checkpoint, or a sweep with the runs that are missing."""
    from dimba.jobs.resume import resume as resume_run

    if not is_address(args.run) and (sweep := find_sweep(runs(), args.run)):
        from dimba.cli.sweep import resume as resume_sweep

        return resume_sweep(sweep, args)
    started, reporter = time.monotonic(), render.reporter()
    folder = _adopted(args.run, reporter) if is_address(args.run) else find_run(runs(), args.run)
    was_done = folder.record().status == "succeeded"
    ask = render.ask_for_trust if render.can_ask() else None
    record = resume_run(folder, reporter, detach=args.detach, trust=args.trust_spec, anyway=args.anyway, ask=ask)
    if was_done:
        render.note(f"all of {record.id} is in its store")
        return 0
    return show_start_or_end(record, started, detached=args.detach)


def _adopted(address: str, reporter: "LaunchReporter") -> RunFolder:
    """The run at an address of a store."""
    from dimba.jobs.store_resume import adopt

    return adopt(address, runs(), reporter)


def show_start_or_end(record: RunRecord, started: float, *, detached: bool) -> int:
    """Print how a followed run ended, or the id of a detached one once it has started; returns 0."""
    if not detached:
        render.show_ending(record, time.monotonic() - started)
        return 0
    from dimba.jobs.supervisor import until_started

    until_started(find_run(runs(), record.id))
    print_line(record.id)
    return 0


def _attend(args: argparse.Namespace) -> None:
    """Supervise a detached run, or a sweep, in a process of its own."""
    from dimba.jobs.resume import supervise

    if sweep := sweep_folder(runs(), args.run):
        from dimba.jobs.sweep.supervise import supervise_sweep

        supervise_sweep(sweep, render.quiet_reporter())
        return
    supervise(find_run(runs(), args.run), render.quiet_reporter())


def ps(args: argparse.Namespace) -> None:
    """List runs, or compare those of a sweep, reconciled with the jobs that are really running."""
    if args.group is not None:
        from dimba.cli.sweep import show_group

        show_group(runs(), args.group, as_json=args.json)
        return
    folders = all_runs(runs())
    records = [record for folder in folders if (record := _readable(folder))]
    shown = [record for record in records if args.all or record.status in ACTIVE]
    if args.json:
        # The diff can be long; run.json has it.
        print_json([replace(record, git_diff=None).as_json() for record in shown])
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
    """Stop a run, or all of a sweep, after it saves a checkpoint, and wait for its end."""
    from dimba.jobs.reconcile import stop_run

    if sweep := find_sweep(runs(), args.run):
        from dimba.cli.sweep import stop as stop_sweep

        stop_sweep(sweep, now=args.now)
        return
    record = stop_run(find_run(runs(), args.run), now=args.now)
    render.note(f"{record.id}: {record.status}, {record.exit_reason}")


def logs(args: argparse.Namespace) -> None:
    """Print the log of a run, or what the supervisor of a sweep has done."""
    from dimba.jobs.reconcile import reconciled

    if sweep := find_sweep(runs(), args.run):
        from dimba.cli.sweep import logs as sweep_logs

        sweep_logs(sweep, follow=args.follow)
        return
    folder = find_run(runs(), args.run)
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


def runs() -> Path:
    """The folder of run records."""
    from dimba.host.probe import runs_folder

    return runs_folder(Path.cwd())


def print_line(text: str) -> None:
    """Print a line on stdout."""
    sys.stdout.write(text + "\n")


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    print_line(json.dumps(value, indent=2, ensure_ascii=False))

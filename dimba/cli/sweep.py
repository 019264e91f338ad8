"""Sweeps on the command line: their flags, the table that is followed, and the commands on a whole sweep."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.cli import render
from dimba.common.errors import BadInput, Interrupted, RunFailed
from dimba.common.units import quantity
from dimba.records import RunFolder
from dimba.records.sweep import find_group, sweep_of

if TYPE_CHECKING:
    from dimba.jobs.lifecycle import Options
    from dimba.jobs.sweep.grid import Axis
    from dimba.jobs.sweep.ranking import Standings
    from dimba.runners.tail import Tail

_FLAGS = ("sweep_max", "sweep_seed", "sweep_at_once", "stop_worst")
_POLL = 1.0  # seconds


def is_asked_for(args: argparse.Namespace) -> bool:
    """Whether a launch is one of a sweep; raises BadInput for its flags without it."""
    if args.sweep and args.same_as:
        raise BadInput("--same-as repeats one run, and --sweep launches several", "leave out one of them")
    if not args.sweep and (given := [name for name in _FLAGS if _is_set(getattr(args, name))]):
        flag = f"--{given[0].replace('_', '-')}"
        raise BadInput(f"{flag} is of a sweep", "add `--sweep KEY=VALUE,VALUE`, or leave it out")
    return bool(args.sweep)


def _is_set(value: object) -> bool:
    """Whether a flag was given; a seed of 0 was."""
    return value is not None and value is not False


def axes_of(texts: Sequence[str]) -> "tuple[Axis, ...]":
    """The axes of `--sweep lora.r=8,16`; raises BadInput for one that is no list of different values."""
    axes = tuple(map(_axis, texts))
    keys = [axis.key for axis in axes]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise BadInput(f"--sweep {twice[0]} is given twice", f"write all its values once: `--sweep {twice[0]}=1,2,3`")
    return axes


def _axis(text: str) -> "Axis":
    from dimba.jobs.sweep.grid import Axis
    from dimba.spec import flow_items

    key, equals, values = text.partition("=")
    if not key or not equals:
        raise BadInput(f"--sweep {text}: expected key=value,value", "for example `--sweep lora.r=8,16`")
    if values.rstrip().endswith(","):
        raise BadInput(f"--sweep {text}: the last value is missing", "remove the comma, or write a value after it")
    try:
        items = flow_items(values)
    except BadInput as error:
        quoted = f"write a value with a comma, a bracket or a colon in quotes: `--sweep '{key}=\"a, b\",c'`"
        raise BadInput(f"--sweep {text}: {error.cause}", quoted) from None
    seen = [value for _, value in items]
    if again := [raw for number, (raw, value) in enumerate(items) if _is_in(value, seen[:number])]:
        raise BadInput(f"--sweep {key}: {again[0]} is given twice", "each value once: equal runs train the same model")
    if len(items) < 2:
        hint = f"`--set {key}={values}` sets one value" if items else f"for example `--sweep {key}=1,2`"
        raise BadInput(f"--sweep {text}: {quantity(len(items), 'value')}, and a sweep compares several", hint)
    return Axis(key, tuple(raw for raw, _ in items))


def _is_in(value: object, others: Sequence[object]) -> bool:
    """Whether the value is among them; true and 1 differ in YAML."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in others)


def launch(args: argparse.Namespace, options: "Options", overrides: Sequence[str]) -> int:
    """Launch a sweep and follow it; with --detach, print its id."""
    from dimba.jobs.sweep.launch import launch_sweep
    from dimba.jobs.sweep.planned import Request

    request = Request(
        spec=Path(args.spec),
        axes=axes_of(args.sweep),
        overrides=tuple(overrides),
        at_most=args.sweep_max,
        seed=args.sweep_seed,
        at_once=args.sweep_at_once,
        stop_worst=args.stop_worst,
        options=options,
        trust=args.trust_spec,
    )
    folder = launch_sweep(request, render.reporter(), render.ask_for_trust if render.can_ask() else None)
    return _follow_or_name(folder, _log(folder), detached=args.detach)


def resume(folder: RunFolder, args: argparse.Namespace) -> int:
    """Continue a sweep with the runs that are missing."""
    from dimba.jobs.sweep.control import resume_sweep

    if args.anyway:
        raise BadInput("--anyway is for one run", "resume each run that needs it: `dimba resume RUN --anyway`")
    log = _log(folder)
    log.lines()  # of before
    resume_sweep(folder, render.reporter(), trust=args.trust_spec)
    return _follow_or_name(folder, log, detached=args.detach)


def _follow_or_name(folder: RunFolder, log: "Tail", *, detached: bool) -> int:
    if detached:
        sys.stdout.write(folder.id + "\n")
        return 0
    return _follow(folder, log)


def _follow(folder: RunFolder, log: "Tail") -> int:
    """Show a sweep until it ends, and its table; the first Ctrl-C asks, or stops all runs without a terminal."""
    from dimba.jobs.lifecycle import interrupted, signals

    with signals(interrupted):
        try:
            last = _shown(folder, log)
        except KeyboardInterrupt:
            _interrupted(folder)
            raise Interrupted(f"sweep {folder.id} stopped", f"`dimba resume {folder.id}` continues it") from None
    return _ended(last)


def _interrupted(folder: RunFolder) -> None:
    """Stop the sweep, or raise Interrupted if the user leaves it running."""
    from dimba.jobs.sweep.control import stop_sweep

    if render.reporter().asks_to_stop("the sweep (its runs save first)") is False:
        hint = f"`dimba watch {folder.id}` follows it, `dimba stop {folder.id}` saves and ends it"
        raise Interrupted(f"left running: {folder.id}", hint)
    render.note("stopping: every run saves a checkpoint first; Ctrl-C again kills them")
    try:
        stop_sweep(folder, now=False)
    except KeyboardInterrupt:
        render.note("killing the jobs")
        stop_sweep(folder, now=True)


def watch(folder: RunFolder, *, as_json: bool) -> int:
    """Show a sweep until it ends; returns 0 if no run failed, else 1, and 130 after Ctrl-C, which leaves it alone."""
    try:
        last = _json_lines(folder) if as_json else _shown(folder, _log(folder))
    except KeyboardInterrupt:
        render.note(f"the sweep continues; `dimba stop {folder.id}` saves and ends it")
        return 130
    return (1 if last.failed else 0) if as_json else _ended(last)


def _json_lines(folder: RunFolder) -> "Standings":
    before = ""
    for now in _looks(folder):
        text = json.dumps(now.as_json(), ensure_ascii=False)
        if text != before:
            before = text
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
    return now


def _looks(folder: RunFolder) -> "Iterator[Standings]":
    """The sweep once a second, until no run is active; each look reconciles the runs."""
    from dimba.jobs.sweep.ranking import Ranking

    ranking = Ranking(folder, sweep_of(folder))
    while True:
        now = ranking.look()
        yield now
        if not now.is_active:
            return
        time.sleep(_POLL)


def _log(folder: RunFolder) -> "Tail":
    """The log of the sweep's supervisor."""
    from dimba.jobs.supervisor import SUPERVISOR_LOG
    from dimba.runners.tail import Tail

    return Tail(folder.path / SUPERVISOR_LOG)


def _shown(folder: RunFolder, log: "Tail") -> "Standings":
    from dimba.cli.sweep_table import live

    console = render.errors_console()
    if console.is_terminal and not console.is_dumb_terminal:
        return live(_looks(folder), console)
    return _lines(folder, log)


def _lines(folder: RunFolder, log: "Tail") -> "Standings":
    """Print the lines of the log as they come."""
    for last in _looks(folder):  # noqa: B007  # the last look is returned
        for line in log.lines():
            render.note(line)
    return last


def _ended(last: "Standings") -> int:
    """Print the table, the best run and the next commands; raises RunFailed if a run failed."""
    from dimba.cli.sweep_table import show_end

    show_end(last)
    if last.failed:
        first = last.failed[0].record
        cause = f"{quantity(len(last.failed), 'run')} of {len(last.sweep.runs)} failed"
        hint = f"`dimba logs {first.id}` prints the log of the first; `dimba resume {last.sweep.id}` tries them again"
        raise RunFailed(cause, hint)
    if any(row.record.exit_reason == "stopped_by_user" for row in last.rows):
        raise RunFailed(f"sweep {last.sweep.id} was stopped elsewhere", f"`dimba resume {last.sweep.id}` continues it")
    return 0


def stop(folder: RunFolder, *, now: bool) -> None:
    """Stop every run of a sweep, and start none."""
    from dimba.jobs.sweep.control import stop_sweep

    for record in stop_sweep(folder, now=now):
        render.note(f"{record.id}: {record.status}, {record.exit_reason}")


def logs(folder: RunFolder, *, follow: bool) -> None:
    """Print what the supervisor of a sweep has done; each run has a log of its own."""
    log = _log(folder)
    for _ in _looks(folder):
        sys.stdout.writelines(f"{line}\n" for line in log.lines())
        sys.stdout.flush()
        if not follow:
            break
    render.note(f"`dimba logs {folder.id}-1` prints the log of its first run")


def show_group(runs: Path, name: str, *, as_json: bool) -> None:
    """Print the table of a sweep; of the newest one without a name."""
    from dimba.cli.sweep_table import show_table
    from dimba.jobs.sweep.ranking import Ranking

    folder = find_group(runs, name)
    found = Ranking(folder, sweep_of(folder)).look()
    if as_json:
        sys.stdout.write(json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
    else:
        show_table(found)

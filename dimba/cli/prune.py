"""`dimba prune`: lists what may go, asks, removes it."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dimba.cli import render
from dimba.commands.prune import KINDS, Leftover, Pruner
from dimba.common.errors import BadInput, DimbaError
from dimba.common.units import size, span

Said = dict[str, DimbaError | str]  # by the place of what stays: what went wrong, or why it is as it should be
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def prune(args: argparse.Namespace) -> int:
    """0 also where nothing was to be removed; 3 where something could not be, 4 where the engine failed."""
    older = seconds(args.older_than)
    pruner = Pruner(Path.cwd())
    found = pruner.find([kind for kind in KINDS if getattr(args, kind)] or KINDS, older)
    for note in found.notes:
        render.note(note)
    leftovers = found.leftovers
    if not args.json:
        _show(leftovers)
    wanted = bool(leftovers) and (args.yes or (not args.json and _confirmed(leftovers)))
    said = _remove(pruner, leftovers) if wanted else {}
    if leftovers and not wanted:
        render.note("nothing was removed; `dimba prune --yes` removes what is listed")
    if args.json:
        _print_json(leftovers, said, removed=wanted)
    errors = [each for each in said.values() if isinstance(each, DimbaError)]
    return min((error.exit_status for error in errors), default=0)


def seconds(text: str) -> float:
    """`12h`, `7d`, `0d` as seconds; raises BadInput."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", text.strip(), re.ASCII)
    if not match:
        raise BadInput(
            f"`{text}` is no length of time", "a number and its unit: `12h`, `7d`, `4w`, `0d`", key="--older-than"
        )
    return float(match[1]) * _UNITS[match[2]]


def _show(leftovers: Sequence[Leftover]) -> None:
    if not leftovers:
        render.note("nothing to remove")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("WHAT", "NAME", "SIZE", "AGE", "WHY"):
        table.add_column(column, no_wrap=column not in ("NAME", "WHY"), overflow="fold")
    for each in leftovers:
        table.add_row(each.kind, each.name, size(each.size), span(each.age), each.why)
    console = render.output_console()
    console.print(table)
    shared = "; images share layers: less is freed" if sum(each.kind == "image" for each in leftovers) > 1 else ""
    console.print(f"{len(leftovers)} in all, {_total(leftovers)}{shared}", markup=False)


def _total(leftovers: Sequence[Leftover]) -> str:
    return size(sum(each.size for each in leftovers))


def _confirmed(leftovers: Sequence[Leftover]) -> bool:
    """One question on a terminal; anything but yes is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"remove {'it' if len(leftovers) == 1 else f'these {len(leftovers)}'}? [y/N] "
    try:
        answer = render.errors_console().input(question, markup=False)
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def _remove(pruner: Pruner, leftovers: Sequence[Leftover]) -> Said:
    """Removes one after the other; what was said of those that stay, by their places."""
    said: Said = {}
    for each in leftovers:
        try:
            why = pruner.remove(each)
        except DimbaError as error:
            said[each.place] = error
            render.say_error(error)
            continue
        if why:
            said[each.place] = why
            render.note(f"left alone: {each.kind} {each.name}: {why}")
    gone = [each for each in leftovers if each.place not in said]
    render.note(f"removed {len(gone)} of {len(leftovers)}, {_total(gone)}")
    return said


def _print_json(leftovers: Sequence[Leftover], said: Said, *, removed: bool) -> None:
    value: list[dict[str, Any]] = []
    for each in leftovers:
        problem = said.get(each.place, "")
        text = problem.message if isinstance(problem, DimbaError) else problem
        value.append({**each.as_json(), "removed": removed and not problem, "problem": text})
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

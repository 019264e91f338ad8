"""`dimba prune`: lists the leftovers, asks, and removes them."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dimba.cli import render
from dimba.cli.wrapping import print_wrapped
from dimba.commands.prune import KINDS, Leftover, Pruner
from dimba.common.errors import BadInput, DimbaError
from dimba.common.units import size, span

Kept = dict[str, DimbaError | str]  # the error, or the reason for keeping it, by the place of each kept leftover
_TABLE = 80  # columns below which the table would break words
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def prune(args: argparse.Namespace) -> int:
    """List and remove leftovers; 0 even if there are none, 3 if one cannot be removed, 4 if the engine fails."""
    older = seconds(args.older_than)
    pruner = Pruner(Path.cwd())
    found = pruner.find([kind for kind in KINDS if getattr(args, kind)] or KINDS, older)
    for note in found.notes:
        render.note(note)
    leftovers = found.leftovers
    if not args.json:
        _show(leftovers)
    wanted = bool(leftovers) and (args.yes or (not args.json and _confirm(leftovers)))
    kept = _remove(pruner, leftovers) if wanted else {}
    if leftovers and not wanted:
        render.note("nothing was removed; `dimba prune --yes` removes what is listed")
    if args.json:
        _print_json(leftovers, kept, removed=wanted)
    errors = [each for each in kept.values() if isinstance(each, DimbaError)]
    return min((error.exit_status for error in errors), default=0)


def seconds(text: str) -> float:
    """The seconds of an age such as `12h`, `7d` or `0d`. Raises BadInput."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", text.strip(), re.ASCII)
    if not match:
        hint = "give a number and its unit: `12h`, `7d`, `4w`, `0d`"
        raise BadInput(f"`{text}` is not an age", hint, key="--older-than")
    return float(match[1]) * _UNITS[match[2]]


def _show(leftovers: Sequence[Leftover]) -> None:
    if not leftovers:
        render.note("nothing to remove")
        return
    console = render.output_console()
    if console.width >= _TABLE:
        console.print(_table(leftovers))
    else:  # two lines for each
        for each in leftovers:
            print_wrapped(f"{each.kind}  {each.name}", console, indent=2, width=console.width)
            about = f"  {size(each.size)}, {span(each.age)} old: {each.why}"
            print_wrapped(about, console, indent=2, width=console.width)
    shared = "; less is freed, as images share layers" if sum(each.kind == "image" for each in leftovers) > 1 else ""
    console.print(f"{len(leftovers)} in all, {_total(leftovers)}{shared}", markup=False)


def _table(leftovers: Sequence[Leftover]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("WHAT", "NAME", "SIZE", "AGE", "WHY"):
        table.add_column(column, no_wrap=column not in ("NAME", "WHY"), overflow="fold", min_width=len(column))
    for each in leftovers:
        table.add_row(each.kind, each.name, size(each.size), span(each.age), each.why)
    return table


def _total(leftovers: Sequence[Leftover]) -> str:
    return size(sum(each.size for each in leftovers))


def _confirm(leftovers: Sequence[Leftover]) -> bool:
    """Ask one question on a terminal; any answer but yes is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"remove {'it' if len(leftovers) == 1 else f'these {len(leftovers)}'}? [y/N] "
    try:
        answer = render.errors_console().input(question, markup=False)
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def _remove(pruner: Pruner, leftovers: Sequence[Leftover]) -> Kept:
    kept: Kept = {}
    for each in leftovers:
        try:
            why = pruner.remove(each)
        except DimbaError as error:
            kept[each.place] = error
            render.print_error(error)
            continue
        if why:
            kept[each.place] = why
            render.note(f"kept: {each.kind} {each.name}: {why}")
    removed = [each for each in leftovers if each.place not in kept]
    render.note(f"removed {len(removed)} of {len(leftovers)}, {_total(removed)}")
    return kept


def _print_json(leftovers: Sequence[Leftover], kept: Kept, *, removed: bool) -> None:
    value: list[dict[str, Any]] = []
    for each in leftovers:
        problem = kept.get(each.place, "")
        text = problem.message if isinstance(problem, DimbaError) else problem
        value.append({**each.as_json(), "removed": removed and not problem, "problem": text})
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

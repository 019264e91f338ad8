"""`dimba pack`: writes a recipe and prints its path; and the table of what differs from one."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.cli import render

if TYPE_CHECKING:
    from dimba.jobs.context import JobContext
    from dimba.jobs.lifecycle import Reporter
    from dimba.jobs.recipes.difference import Difference
    from dimba.spec import LoadedSpec

_LABELS = {
    "changes": "changes the result",
    "may change": "may change the result",
    "does not change": "does not change the result",
    "figures": "figures",
}


def add_arguments(pack: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dimba pack`."""
    pack.add_argument("run", metavar="RUN", help="a run's id, the start of one, or a name")
    about = "write to this file (default: RUN.recipe.yaml in the current folder)"
    way = pack.add_mutually_exclusive_group()
    way.add_argument("--out", type=Path, metavar="FILE", help=about)
    way.add_argument("--same-as", type=Path, metavar="FILE", help="write nothing, but say what differs from it")
    code = "include the text of reward functions and of a custom trainer, which `launch` then asks trust for"
    pack.add_argument("--with-code", action="store_true", help=code)
    pack.add_argument("--json", action="store_true", help="print JSON")


def pack(args: argparse.Namespace) -> None:
    """Write the recipe of a run, or print what differs between the run and a recipe."""
    from dimba.commands.pack import compare_run
    from dimba.commands.pack import pack as write
    from dimba.host.probe import runs_folder
    from dimba.jobs.lifecycle import interrupted, signals
    from dimba.records import find_run

    folder = find_run(runs_folder(Path.cwd()), args.run)
    with signals(interrupted):
        if args.same_as:
            return show_differences(compare_run(folder, args.same_as, render.reporter()), as_json=args.json)
        path = write(folder, args.out, render.reporter(), with_code=args.with_code)
    sys.stdout.write(f"{json.dumps({'path': str(path)}) if args.json else path}\n")


def found_here(loaded: "LoadedSpec") -> "LoadedSpec":
    """The spec; of a recipe with the places of its files on this machine."""
    if loaded.recipe is None:
        return loaded
    from dimba.jobs.recipes.files import with_files

    return with_files(loaded, Path.cwd())


def differences_of(context: "JobContext", args: argparse.Namespace, reporter: "Reporter") -> None:
    """Print what differs between a job and the recipe that `plan --same-as` names."""
    from dimba.jobs.recipes.launching import differences_of_plan, job_of_recipe
    from dimba.spec import load_spec

    that = job_of_recipe(load_spec(Path(args.same_as)))
    show_differences(differences_of_plan(context, that, reporter), as_json=args.json)


def show_differences(found: "Sequence[Difference]", *, as_json: bool) -> None:
    """Print what differs, by what it does to the result."""
    if as_json:
        same = not any(each.kind == "changes" for each in found)
        text = json.dumps({"same": same, "differences": [vars(each) for each in found]}, indent=2, ensure_ascii=False)
        sys.stdout.write(text + "\n")
        return
    if not found:
        render.output_console().print("the same in everything that is compared")
    for kind, label in _LABELS.items():
        if rows := [each for each in found if each.kind == kind]:
            _show(label, rows)


def _show(label: str, rows: "Sequence[Difference]") -> None:
    from rich.table import Table
    from rich.text import Text

    console = render.output_console()
    console.print(label, style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "THIS", "THAT", *([""] if any(each.note for each in rows) else [])):
        table.add_column(name, overflow="fold")
    for each in rows:
        table.add_row(*(Text(cell) for cell in (f"  {each.key}", each.this, each.that, *filter(None, [each.note]))))
    console.print(table)

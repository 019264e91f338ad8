"""`dimba wizard`: its flags, one for each answer, and what comes after the last."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.common.errors import Interrupted
from dimba.wizard.questions import QUESTIONS
from dimba.wizard.screen import is_plain

if TYPE_CHECKING:
    from dimba.wizard.run import Outcome


def add_flags(command: argparse.ArgumentParser) -> None:
    """A flag for each question that has one."""
    for question in QUESTIONS:
        if question.flag:
            count = "+" if question.key == "columns" else None
            command.add_argument(
                question.flag, dest=question.key, metavar=question.metavar, help=question.help, nargs=count
            )
    command.add_argument("--launch", action=argparse.BooleanOptionalAction, help="run it once it is saved")
    command.add_argument("--allow-cpu", action="store_true", help="launched: go on where the GPUs do not work inside")
    command.add_argument("--defaults", action="store_true", help="ask nothing: defaults for what is not given")
    command.add_argument("--plain", action="store_true", help="plain lines, for screen readers and dumb terminals")


def wizard(args: argparse.Namespace) -> int:
    """The six steps, or none of them with --defaults; the spec's path is the line on stdout."""
    from dimba.wizard.run import by_asking, name_the_missing, new_state, without_asking

    state = new_state(Path.cwd(), _flags(args))
    if not args.defaults and sys.stdin.isatty() and sys.stdout.isatty():
        try:
            return _after(by_asking(state, plain=args.plain or is_plain()), args)
        except (KeyboardInterrupt, EOFError):
            raise Interrupted("left; nothing was written", "`dimba wizard` goes on where you were") from None
    if not args.defaults:
        name_the_missing(state)
    from dimba.cli import render

    outcome = without_asking(state)
    if outcome.preview.plan:
        render.show_plan(outcome.preview.plan, render.errors_console())
    return _after(outcome, args)


def _flags(args: argparse.Namespace) -> dict[str, object]:
    """Answers by question, as they were typed."""
    flags = {question.key: getattr(args, question.key, None) for question in QUESTIONS}
    columns = args.columns
    return {**flags, "columns": "\n".join(columns) if columns else None}


def _after(outcome: "Outcome", args: argparse.Namespace) -> int:
    from dimba.cli import commands, render

    for line in outcome.notes:
        render.note(line)
    path = os.path.relpath(outcome.path)
    if outcome.preview.problem:
        render.note(f"written, but this machine cannot run it:\n{outcome.preview.problem}")
    if outcome.launch:
        render.note(f"saved {path}")
        commands.launch_now(path, allow_cpu=args.allow_cpu)
        return 0
    render.note(f"saved; edit it as you like, then `dimba launch {shlex.quote(path)}`")
    sys.stdout.write(path + "\n")
    return 0

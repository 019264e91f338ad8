"""`dimba wizard`: one flag per answer, and the spec's path on stdout."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.errors import Interrupted
from dimba.wizard.questions import QUESTIONS
from dimba.wizard.screen import is_plain

if TYPE_CHECKING:
    from dimba.wizard.saving import Outcome


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add a flag for each question that has one, then those of the command itself."""
    for question in QUESTIONS:
        if question.flag:
            command.add_argument(
                question.flag,
                dest=question.key,
                metavar=question.metavar,
                help=question.help,
                nargs="+" if question.several else None,
            )
    command.add_argument("--launch", action=argparse.BooleanOptionalAction, help="launch the job once it is saved")
    command.add_argument(
        "--allow-cpu", action="store_true", help="with --launch: use the CPU if the requested GPUs do not work"
    )
    command.add_argument("--defaults", action="store_true", help="ask nothing: take defaults for the rest")
    command.add_argument("--plain", action="store_true", help="plain lines, for screen readers and dumb terminals")


def wizard(args: argparse.Namespace) -> int:
    """Ask the six steps, or none with --defaults, and save the spec; its path goes to stdout."""
    from dimba.wizard.run import ask_user, new_state, refuse_missing_flags, take_defaults

    state = new_state(Path.cwd(), _flags(args))
    if not args.defaults and sys.stdin.isatty() and sys.stdout.isatty():
        try:
            return _report(ask_user(state, plain=args.plain or is_plain()), args)
        except (KeyboardInterrupt, EOFError):
            hint = "`dimba wizard` continues where you left off"
            raise Interrupted("interrupted; no spec was written", hint) from None
    if not args.defaults:
        refuse_missing_flags(state)
    from dimba.cli import render
    from dimba.cli.plan_page import show_plan

    outcome = take_defaults(state)
    if outcome.preview.plan:
        show_plan(outcome.preview.plan, render.errors_console())
    return _report(outcome, args)


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """The text of each flag by question, one line per value."""
    values = {question.key: getattr(args, question.key, None) for question in QUESTIONS}
    return {key: "\n".join(value) if isinstance(value, list) else value for key, value in values.items()}


def _report(outcome: "Outcome", args: argparse.Namespace) -> int:
    from dimba.cli import commands, render

    for line in outcome.notes:
        render.note(line)
    path = os.path.relpath(outcome.path)
    if outcome.preview.problem:
        render.note(f"saved, but this machine cannot run it:\n{outcome.preview.problem}")
    if outcome.launch:
        render.note(f"saved {path}")
        commands.launch_now(path, allow_cpu=args.allow_cpu)
        return 0
    render.note(f"saved; edit it or run it with `dimba launch {shlex.quote(path)}`")
    sys.stdout.write(path + "\n")
    return 0

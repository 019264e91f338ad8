"""The `dimba` command: what there is to ask for, and the one place where an error becomes an exit status."""

import argparse
import importlib
import io
import json
import os
import sys
from pathlib import Path

from dimba import __version__
from dimba.common.contract import ATTEND
from dimba.common.errors import DimbaError, HostCannot
from dimba.common.runners import AUTO, RENDERED, RUNNERS


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    _prepare_streams()
    words = sys.argv[1:] if argv is None else argv
    args = command_parser(words).parse_args(words)
    try:
        return _run(args)
    except DimbaError as error:
        _say(error)
        if getattr(args, "json", False):  # whoever reads it gets an object, whatever came of it
            sys.stdout.write(json.dumps({"error": error.message, "hint": error.hint}, ensure_ascii=False) + "\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # before OSError, of which it is one
        # Whoever read our output has gone (`| head`); nothing may be written while Python ends either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say(HostCannot(str(error.strerror), "fix the permissions, or make room", file=error.filename or "output"))
        return HostCannot.exit_status


def _prepare_streams() -> None:
    """A stream that the caller closed is nothing to read and nowhere to write, not an error of ours."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path that this terminal's encoding cannot say
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _run(args: argparse.Namespace) -> int:
    # Imported only now: `dimba --help` must not pay for pydantic, docker and rich, nor the wizard's first prompt.
    rooms = {"wizard": "dimba.cli.wizard", "prune": "dimba.cli.prune"}
    command = getattr(importlib.import_module(rooms.get(args.command, "dimba.cli.commands")), args.command)
    status = int(command(args) or 0)
    sys.stdout.flush()  # a full disk is told here, not by a traceback while Python ends
    return status


def _say(error: DimbaError) -> None:
    from dimba.cli.render import say_error

    say_error(error)


def command_parser(words: list[str]) -> argparse.ArgumentParser:
    """The parser of the command line `words`; the wizard's flags are in it where `words` call the wizard."""
    parser = argparse.ArgumentParser(
        prog="dimba",
        description="From a checkpoint, a data set and some GPUs to a fine-tuned model, without surprises.",
        epilog="`dimba COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"dimba {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_wizard(commands, words)
    _add_spec_commands(commands)
    _add_run_commands(commands)
    demo = commands.add_parser("demo", help="make a tiny checkpoint and data set, and fine-tune it")
    demo.add_argument("--json", action="store_true", help="the result as JSON")
    doctor = commands.add_parser("doctor", help="check the engine, the GPUs and the disk")
    doctor.add_argument("--json", action="store_true", help="the checks as JSON")
    _add_prune(commands)
    return parser


def _add_prune(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    prune = commands.add_parser("prune", help="list old images, containers and runs of ours, and remove them")
    prune.add_argument("--images", action="store_true", help="images that jobs would not run in now")
    prune.add_argument("--containers", action="store_true", help="containers of the runs here that have ended")
    prune.add_argument("--runs", action="store_true", help="folders of ended runs; never what they trained")
    prune.add_argument("--cache", action="store_true", help="tokens and reward models in the Hugging Face cache")
    age = "of runs (since they ended) and the cache (since it was used): 12h, 7d, 4w; 30d without it"
    prune.add_argument("--older-than", default="30d", metavar="AGE", help=age)
    prune.add_argument("--yes", action="store_true", help="remove without asking")
    prune.add_argument("--json", action="store_true", help="the list as JSON; asks nothing")


def _add_wizard(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", words: list[str]) -> None:
    wizard = commands.add_parser("wizard", help="six steps from nothing to a running job")
    if words[:1] == ["wizard"]:  # its flags are made from its questions, which other commands need not load
        from dimba.cli.wizard import add_flags

        add_flags(wizard)


def _add_spec_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    validate = commands.add_parser("validate", help="check specs for mistakes, touching nothing else")
    validate.add_argument("specs", nargs="+", metavar="SPEC")
    commands.add_parser("schema", help="print the spec's JSON Schema")
    plan = commands.add_parser("plan", help="show what would run; builds and starts nothing")
    _add_spec(plan)
    plan.add_argument("--json", action="store_true", help="the plan as JSON")
    data = commands.add_parser("data", help="show the data as the model will see them")
    _add_spec(data)
    data.add_argument("--json", action="store_true", help="what was found as JSON")


def _add_run_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    launch = commands.add_parser("launch", help="run a spec")
    what = launch.add_mutually_exclusive_group(required=True)
    _add_spec(launch, what)
    what.add_argument("--same-as", metavar="RUN", help="once more what this run trained, in a folder of its own")
    launch.add_argument("--detach", action="store_true", help="return once it runs; its id is the last line on stdout")
    launch.add_argument("--follow", action="store_true", help="show it until it ends (the default)")
    launch.add_argument(
        "--share", action="store_true", help="use GPUs that others use too, instead of waiting for them"
    )
    launch.add_argument("--time-limit", type=_stretch, metavar="TIME", help="save and stop after 90s, 30m, 2h or 1d")
    launch.add_argument(
        "--retries", type=int, default=0, metavar="N", help="go on by itself after what may go well another time"
    )
    launch.add_argument("--restart-hung", action="store_true", help="end a job whose steps no longer come, and go on")
    resume = commands.add_parser("resume", help="go on with a run from its newest whole checkpoint")
    resume.add_argument("run", metavar="RUN", help="a run's id, the start of one, or a name")
    resume.add_argument("--detach", action="store_true", help="return once it runs; its id is the last line on stdout")
    resume.add_argument("--trust-spec", action="store_true", help="run what its spec brings along")
    commands.add_parser(ATTEND).add_argument("run")  # not for people
    ps = commands.add_parser("ps", help="list runs")
    ps.add_argument("-a", "--all", action="store_true", help="ended ones too")
    ps.add_argument("--json", action="store_true", help="the runs as JSON")
    stop = commands.add_parser("stop", help="save a checkpoint and end a run")
    stop.add_argument("run", metavar="RUN", help="a run's id, the start of one, or a name")
    stop.add_argument("--now", action="store_true", help="kill it, without saving")
    logs = commands.add_parser("logs", help="print a run's log, from disk")
    logs.add_argument("run", metavar="RUN", help="a run's id, the start of one, or a name")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")


def _stretch(text: str) -> float:
    from dimba.common.units import seconds

    try:
        return seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is no time; write it as 90s, 30m, 2h or 1d") from None


def _add_spec(command: argparse.ArgumentParser, alternative: "argparse._MutuallyExclusiveGroup | None" = None) -> None:
    if alternative is None:
        command.add_argument("spec", metavar="SPEC")
    else:
        alternative.add_argument("spec", nargs="?", metavar="SPEC")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value for this time")
    runners = (AUTO, *RUNNERS, *RENDERED)
    command.add_argument("--runner", choices=runners, help="instead of the spec's; `plan` renders for kubernetes")
    command.add_argument("--allow-cpu", action="store_true", help="go on where the GPUs asked for do not work inside")
    command.add_argument("--trust-spec", action="store_true", help="run what a stranger's spec brings along")

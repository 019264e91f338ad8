"""The `dimba` command: its parser, and the one place that turns an error into an exit status."""

import argparse
import importlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TypeAlias

from dimba import __version__
from dimba.common.contract import ATTEND
from dimba.common.errors import DimbaError, HostCannot
from dimba.common.runners import AUTO, RENDERED, RUNNERS

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_DETACH = "return once the run has started; the last line on stdout is its id"
_MODEL_COMMANDS = {
    "chat": "talk to a trained model",
    "generate": "print a trained model's answers, or answer a file of rows",
    "eval": "compare trained models with their base on rows that were held out",
    "serve": "answer OpenAI's interface with a trained model, on 127.0.0.1",
    "export": "write a trained model as others use it, and prove it equal",
    "convert": "rewrite a masked checkpoint of the original DIMBA as a model that dimba trains",
}
_TRUST = "allow the spec's own code, images, mounts and variables without asking"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    _prepare_streams()
    words = sys.argv[1:] if argv is None else argv
    args = command_parser(words).parse_args(words)
    try:
        return _run(args)
    except DimbaError as error:
        _print_error(error)
        if getattr(args, "json", False):  # a reader of JSON gets an object even for an error
            sys.stdout.write(json.dumps({"error": error.message, "hint": error.hint}, ensure_ascii=False) + "\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # before its base class OSError
        # The reader has ended (`| head`); Python must not write while it ends either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UnicodeEncodeError as error:
        cause = f"this environment's encoding, {error.encoding}, cannot name `{error.object[:200]!a}`"
        _print_error(HostCannot(cause, "set PYTHONUTF8=1, or a locale such as `LC_ALL=C.UTF-8`"))
        return HostCannot.exit_status
    except OSError as error:
        hint = "fix the permissions, or free disk space"
        _print_error(HostCannot(str(error.strerror), hint, file=error.filename or "output"))
        return HostCannot.exit_status


def _prepare_streams() -> None:
    """Escape characters that the terminal cannot encode, and replace streams that the caller closed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _run(args: argparse.Namespace) -> int:
    # Imported late: `dimba --help` must not load pydantic, docker and rich, nor must the wizard's first prompt.
    names = ("wizard", "prune", "chat", "generate", "serve", "export", "convert", "eval", "report", "watch", "pack")
    rooms = {name: f"dimba.cli.{name}" for name in names}
    rooms |= dict.fromkeys(("ps", "stop", "logs", "resume", ATTEND), "dimba.cli.runs")
    command = getattr(importlib.import_module(rooms.get(args.command, "dimba.cli.commands")), args.command)
    status = int(command(args) or 0)
    sys.stdout.flush()  # a full disk must raise here, not while Python ends
    return status


def _print_error(error: DimbaError) -> None:
    from dimba.cli.render import print_error

    print_error(error)


def command_parser(words: list[str]) -> argparse.ArgumentParser:
    """The parser of the command line `words`; only a command that `words` call has the flags of another module."""
    parser = argparse.ArgumentParser(
        prog="dimba",
        description="Fine-tunes a language model as a job spec describes, in a container, a process or on a cluster.",
        epilog="`dimba COMMAND --help` lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"dimba {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_wizard(commands, words)
    _add_spec_commands(commands)
    _add_run_commands(commands, words)
    _add_model_commands(commands, words)
    _add_json(commands.add_parser("demo", help="create a tiny checkpoint and data set, and fine-tune it"))
    _add_json(commands.add_parser("doctor", help="check this machine's engine, GPUs, disk and network"))
    _add_prune(commands)
    return parser


def _add_prune(commands: Commands) -> None:
    prune = commands.add_parser("prune", help="list and remove unused images, containers, runs and caches")
    prune.add_argument("--images", action="store_true", help="images that no new job would use")
    prune.add_argument("--containers", action="store_true", help="containers of this folder's ended runs")
    prune.add_argument("--runs", action="store_true", help="folders of ended runs, but no trained models")
    prune.add_argument("--cache", action="store_true", help="tokens and reward models in the Hugging Face cache")
    age = "minimum age of runs (since their end) and cache entries (since their last use): 12h, 7d, 4w"
    prune.add_argument("--older-than", default="30d", metavar="AGE", help=f"{age} (default: 30d)")
    prune.add_argument("--yes", action="store_true", help="remove without asking")
    _add_json(prune)


def _add_wizard(commands: Commands, words: list[str]) -> None:
    wizard = commands.add_parser("wizard", help="write a job spec in six steps, and launch it")
    if words[:1] == ["wizard"]:  # its flags come from its questions, which other commands need not load
        from dimba.cli.wizard import add_flags

        add_flags(wizard)


def _add_spec_commands(commands: Commands) -> None:
    validate = commands.add_parser("validate", help="check specs for mistakes, without reading anything else")
    validate.add_argument("specs", nargs="+", metavar="SPEC", help="a job spec")
    commands.add_parser("schema", help="print the JSON Schema of a job spec")
    plan = commands.add_parser("plan", help="show what a launch would run, without starting anything")
    _add_spec(plan)
    plan.add_argument("--same-as", metavar="FILE", help="print what differs from this recipe of `dimba pack`, instead")
    _add_json(plan)
    data = commands.add_parser("data", help="show the data as the model will see them")
    _add_spec(data)
    _add_json(data)


def _add_run_commands(commands: Commands, words: list[str]) -> None:
    _add_launch(commands.add_parser("launch", help="run a job spec"))
    resume = commands.add_parser("resume", help="continue a run from its newest complete checkpoint")
    about = "a run's id, the start of one, or a name; a sweep's id; or a run in its store, as s3://bucket/folder/RUN"
    resume.add_argument("run", metavar="RUN", help=about)
    resume.add_argument("--detach", action="store_true", help=_DETACH)
    resume.add_argument("--trust-spec", action="store_true", help=_TRUST)
    anyway = "continue though the base, data, trainer, batch or libraries have changed, and note it in run.json"
    resume.add_argument("--anyway", action="store_true", help=anyway)
    commands.add_parser(ATTEND).add_argument("run")  # internal: the supervisor of a detached run
    ps = commands.add_parser("ps", help="list runs")
    ps.add_argument("-a", "--all", action="store_true", help="include ended runs")
    group = "compare the runs of a sweep, best first (default: the newest sweep)"
    ps.add_argument("--group", nargs="?", const="", metavar="SWEEP", help=group)
    _add_json(ps)
    stop = commands.add_parser("stop", help="save a checkpoint and stop a run")
    _add_run(stop)
    stop.add_argument("--now", action="store_true", help="kill the run without saving")
    logs = commands.add_parser("logs", help="print the log of a run")
    _add_run(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="continue until the run ends")
    _add_views(commands, words)


def _add_views(commands: Commands, words: list[str]) -> None:
    report = commands.add_parser("report", help="write what a run did, or how several compare, as one HTML file")
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run's id, the start of one, or a name; or a sweep's")
    report.add_argument("--open", action="store_true", help="open the file in the browser")
    _add_json(report)
    watch = commands.add_parser("watch", help="show a run's progress in the terminal until it ends")
    _add_run(watch)
    watch.add_argument("--json", action="store_true", help="print a line of JSON for each change")

    pack = commands.add_parser("pack", help="write a run as one file from which others train the same")
    if words[:1] == ["pack"]:
        from dimba.cli.pack import add_arguments

        add_arguments(pack)


def _add_model_commands(commands: Commands, words: list[str]) -> None:
    for name, about in _MODEL_COMMANDS.items():
        command = commands.add_parser(name, help=about)
        if words[:1] == [name]:  # the kinds of their values take 17 ms, which other commands need not load
            from dimba.cli.models import ARGUMENTS

            ARGUMENTS[name](command)


def _add_launch(launch: argparse.ArgumentParser) -> None:
    source = launch.add_mutually_exclusive_group(required=True)
    _add_spec(launch, source)
    source.add_argument("--same-as", metavar="RUN", help="repeat this run with its spec, in a new output folder")
    launch.add_argument("--detach", action="store_true", help=_DETACH)
    launch.add_argument("--follow", action="store_true", help="show the run until it ends (default)")
    launch.add_argument(
        "--share", action="store_true", help="use GPUs that other jobs use, instead of waiting for them"
    )
    launch.add_argument("--time-limit", type=_duration, metavar="TIME", help="save and stop after 90s, 30m, 2h or 1d")
    launch.add_argument(
        "--retries", type=int, default=0, metavar="N", help="retry up to N times after transient failures"
    )
    anyway = "launch a recipe on another base, data or code than it names, and note it in run.json"
    launch.add_argument("--anyway", action="store_true", help=anyway)
    launch.add_argument("--restart-hung", action="store_true", help="kill a job that hangs, and resume it")
    _add_sweep(launch)


def _add_sweep(launch: argparse.ArgumentParser) -> None:
    sweep = launch.add_argument_group("a sweep: a run for each combination of values, one group")
    key = "values of a key, as lora.r=8,16; repeated: every combination. Quotes or brackets hold a comma"
    sweep.add_argument("--sweep", action="append", default=[], metavar="KEY=V1,V2", help=key)
    most = "run N of the combinations, drawn at random"
    sweep.add_argument("--sweep-max", type=_count, metavar="N", help=most)
    sweep.add_argument("--sweep-seed", type=int, metavar="SEED", help="seed of the draw (default: training.seed)")
    at_once = "run N at a time at most (default: as many as the GPUs take; one on the CPU)"
    sweep.add_argument("--sweep-at-once", type=_count, metavar="N", help=at_once)
    worst = "stop the worse half at the 1st, 2nd, 4th, 8th … evaluation"
    sweep.add_argument("--stop-worst", action="store_true", help=worst)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1_000_000):
        raise argparse.ArgumentTypeError(f"`{text}` is not a number of runs")
    return int(text)


def _duration(text: str) -> float:
    from dimba.common.units import seconds

    try:
        return seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is not a duration; write it as 90s, 30m, 2h or 1d") from None


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, and ask nothing")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="a run's id, the start of one, or a name; or a sweep's id")


def _add_spec(command: argparse.ArgumentParser, alternative: "argparse._MutuallyExclusiveGroup | None" = None) -> None:
    if alternative is None:
        command.add_argument("spec", metavar="SPEC", help="a job spec")
    else:
        alternative.add_argument("spec", nargs="?", metavar="SPEC", help="a job spec")
    key = "override a key of the spec, as training.max_steps=10; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=key)
    runners = (AUTO, *RUNNERS, *RENDERED)
    about = f"override the spec's runner: {', '.join(runners)} (only `plan` takes kubernetes)"
    command.add_argument("--runner", choices=runners, metavar="NAME", help=about)
    command.add_argument("--allow-cpu", action="store_true", help="use the CPU if the requested GPUs do not work")
    command.add_argument("--trust-spec", action="store_true", help=_TRUST)

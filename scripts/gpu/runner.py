"""Runs the checks of a part, each in processes of its own that end with its time limit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from scripts.gpu.context import Context
from scripts.gpu.parts import PART_SECONDS, PARTS
from scripts.gpu.results import FAILED, RIGHT, TIMEOUT, Result, line_of, read, write

END = "end"  # the case of the line that a check ends with


def run_part(part: str, folder: Path, device: str, *, tiny: bool) -> None:
    """Run the checks of a part that have not ended, and print their results."""
    ended = {(each.part, each.check) for each in read(folder) if each.case == END}
    end = time.monotonic() + PART_SECONDS
    for check in PARTS[part]:
        if (part, check.name) in ended:
            continue
        before = len(list(read(folder)))
        run_check(Context(part, check.name, folder, device, tiny), min(check.seconds, end - time.monotonic()))
        for each in list(read(folder))[before:]:
            if each.case != END:
                print(line_of(each), flush=True)


def run_check(context: Context, seconds: float) -> None:
    """Run one check for `seconds` at most; writes a result of its own if the check fails or reaches the limit."""
    if seconds < 1:
        write(context.folder, context.result("all", TIMEOUT, "its part had no time left"))
        return
    started, log = time.monotonic(), context.folder / f"{context.check}.log"
    status = _status(command_of(context), log, seconds)
    spent = time.monotonic() - started
    outcome = {0: RIGHT, None: TIMEOUT}.get(status, FAILED)
    detail = f"after {seconds:.0f} s, see {log}" if status is None else f"exit status {status}, see {log}"
    name, part = context.check, context.part
    if outcome != RIGHT:
        write(context.folder, Result(part=part, check=name, case="all", outcome=outcome, seconds=spent, detail=detail))
    write(context.folder, Result(part=part, check=name, case=END, outcome=outcome, seconds=spent))


def command_of(context: Context) -> list[str]:
    """The command of one check."""
    tiny = ["--tiny"] if context.tiny else []
    named = [context.part, context.check, str(context.folder), context.device]
    return [sys.executable, "-m", "scripts.gpu.checks", *named, *tiny]


def _status(command: list[str], log: Path, seconds: float) -> int | None:
    """The exit status of a command, None if it reached the limit; its processes have ended then."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill_group(process)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """A check that ended may have left ranks behind, which hold the GPU."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()

"""Runs the checks of a part, each in processes of its own that end with its time limit."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from scripts.gpu.context import Context
from scripts.gpu.parts import AT_ONCE, PART_SECONDS, PARTS, Check
from scripts.gpu.results import FAILED, FILE, RIGHT, TIMEOUT, Result, line_of, read, write

END = "end"  # the case of the line that a check ends with


def run_part(part: str, folder: Path, device: str, *, tiny: bool) -> None:
    """Run the checks of a part that have not ended, and print their results as each ends."""
    ended = {(each.part, each.check) for each in read(folder) if each.case == END}
    left = [check for check in PARTS[part] if (part, check.name) not in ended]
    end, at_once = time.monotonic() + PART_SECONDS, AT_ONCE[device].get(part, 1)
    threads = max(1, (os.cpu_count() or 1) // at_once)

    def run(check: Check) -> None:
        context = Context(part, check.name, folder, device, tiny)
        run_check(context, min(check.seconds, end - time.monotonic()), threads)
        lines = [line_of(each) for each in results_of(folder, part) if each.check == check.name]
        print("\n".join(lines), flush=True)  # one call: the checks of other threads print too

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, left))


def results_of(folder: Path, part: str) -> list[Result]:
    """The answers of a part so far, in the order of its checks."""
    order = [check.name for check in PARTS[part]]
    found = [each for each in read(folder) if each.part == part and each.case != END]
    return sorted(found, key=lambda each: order.index(each.check))


def prepare(folder: Path, *, keep: bool) -> None:
    """Start the results anew; with `keep`, those of the checks that have ended or that continue stay."""
    found = list(read(folder)) if keep else []
    ended = {(each.part, each.check) for each in found if each.case == END}
    ended |= {(part, check.name) for part, checks in PARTS.items() for check in checks if check.continues}
    (folder / FILE).unlink(missing_ok=True)
    for each in found:
        if (each.part, each.check) in ended:
            write(folder, each)


def run_check(context: Context, seconds: float, threads: int) -> None:
    """Run one check for `seconds` at most; writes a result of its own if the check fails or reaches the limit."""
    if seconds < 1:
        write(context.folder, context.result("all", TIMEOUT, "its part had no time left"))
        return
    started, log = time.monotonic(), context.folder / f"{context.check}.log"
    status = _status(command_of(context), log, seconds, threads)
    spent = time.monotonic() - started
    outcome = {0: RIGHT, None: TIMEOUT}.get(status, FAILED)
    detail = f"after {seconds:.0f} s, see {log}" if status is None else f"exit status {status}, see {log}"
    if outcome != RIGHT:
        last = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
        write(context.folder, replace(context.result("all", outcome, f"{detail}: {last[-300:]}"), seconds=spent))
    write(context.folder, replace(context.result(END, outcome), seconds=spent))


def command_of(context: Context) -> list[str]:
    """The command of one check."""
    tiny = ["--tiny"] if context.tiny else []
    named = [context.part, context.check, str(context.folder), context.device]
    return [sys.executable, "-m", "scripts.gpu.checks", *named, *tiny]


def _status(command: list[str], log: Path, seconds: float, threads: int) -> int | None:
    """The exit status of a command, None if it reached the limit; its processes have ended then."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            start_new_session=True,
        )
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

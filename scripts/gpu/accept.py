"""Finds out what only a GPU can answer, in parts of at most eight minutes, without a network.

    PYTHONPATH=. python scripts/gpu/accept.py [--part NAME …] [--resume] [--device cpu --tiny] [--folder FOLDER]

Each check is a process of its own with a limit: one that crashes or hangs is a result too. Results are written as they
come, and --resume leaves out the checks that have ended. Exits with 1 if an answer is wrong.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.gpu.results import ABSENT, FAILED, FILE, RIGHT, TIMEOUT, Result, line_of, read, table, write

_PART_SECONDS = 480.0
NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "pydantic", "yaml")
_END = "end"  # the case of the line that a check ends with


@dataclass(frozen=True)
class Check:
    """A function of `scripts.gpu.checks`, and its longest time in seconds."""

    name: str
    seconds: float


PARTS = {
    "attention": (Check("attention", 300), Check("memory", 120)),
    "correct": (Check("sft", 150), Check("dpo", 150), Check("grpo", 150), Check("stop", 90)),
}


def main() -> int:
    """Run the parts; returns the exit status."""
    args = _arguments()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"not installed for {sys.executable}: {', '.join(missing)}", file=sys.stderr)
        print("hint: give a folder of their wheels with --wheels FOLDER", file=sys.stderr)
        return 3
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not args.resume:
        (folder / FILE).unlink(missing_ok=True)
    for part in args.part:
        _run_part(part, folder, args)
    results = [each for each in read(folder) if each.case != _END]
    print(f"\n{table(results)}")
    return int(any(each.outcome not in (RIGHT, ABSENT) for each in results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers that only a GPU can give.")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--resume", action="store_true", help="leave out the checks that have ended")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to rehearse on a CPU")
    parser.add_argument("--folder", default="gpu-results", help="of results and models (default: gpu-results)")
    parser.add_argument("--wheels", help="a folder of wheels for what is not installed")
    args = parser.parse_args()
    if args.wheels:
        _install(Path(args.wheels), Path(args.folder) / "packages")
    return args


def _install(wheels: Path, target: Path) -> None:
    """Install the wheels that are there beside the packages of this Python, which stay as they are."""
    found = [str(each) for each in sorted(wheels.glob("*.whl"))]
    flags = ("--quiet", "--no-index", "--no-deps", "--upgrade", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, *found], check=True)
    sys.path.insert(0, str(target))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(target.resolve()), os.environ.get("PYTHONPATH", ".")])


def _run_part(part: str, folder: Path, args: argparse.Namespace) -> None:
    ended = {(each.part, each.check) for each in read(folder) if each.case == _END}
    left = _PART_SECONDS
    for check in PARTS[part]:
        if (part, check.name) in ended:
            continue
        if left < 1:
            write(folder, Result(part=part, check=check.name, case="all", outcome=TIMEOUT, detail="no time was left"))
            continue
        started, before = time.monotonic(), len(list(read(folder)))
        _run_check(part, check, folder, args, min(check.seconds, left))
        left -= time.monotonic() - started
        for each in list(read(folder))[before:]:
            print(line_of(each), flush=True)


def command_of(part: str, check: str, folder: Path, args: argparse.Namespace) -> list[str]:
    """The command of one check."""
    tiny = ["--tiny"] if args.tiny else []
    return [sys.executable, "-m", "scripts.gpu.checks", part, check, str(folder), args.device, *tiny]


def _run_check(part: str, check: Check, folder: Path, args: argparse.Namespace, seconds: float) -> None:
    log = folder / f"{check.name}.log"
    started, outcome, detail = time.monotonic(), RIGHT, ""
    with log.open("w", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                command_of(part, check.name, folder, args),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
            if done.returncode:
                outcome, detail = FAILED, f"exit status {done.returncode}, see {log}"
        except subprocess.TimeoutExpired:
            outcome, detail = TIMEOUT, f"after {seconds:.0f} s, see {log}"
    spent = time.monotonic() - started
    if outcome != RIGHT:
        write(folder, Result(part=part, check=check.name, case="all", outcome=outcome, seconds=spent, detail=detail))
    write(folder, Result(part=part, check=check.name, case=_END, outcome=outcome, seconds=spent))


if __name__ == "__main__":
    sys.exit(main())

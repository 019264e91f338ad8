"""Finds out what only a GPU can answer, in parts of at most eight minutes, without a network.

    python scripts/gpu/accept.py [--part NAME …] [--resume] [--device cpu --tiny] [--folder FOLDER] [--wheels FOLDER]

Each check is a process of its own with a limit: one that crashes or hangs is a result too. Results are written as they
come, and --resume leaves out the checks that have ended. Exits with 1 if an answer is wrong.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # in place of this script's folder

from scripts.gpu.machine import NEEDED, install, look, missing, unmet  # noqa: E402
from scripts.gpu.parts import PARTS  # noqa: E402
from scripts.gpu.results import ABSENT, RIGHT, Result, counts, table, write  # noqa: E402
from scripts.gpu.runner import prepare, results_of, run_part  # noqa: E402

_WHEELS = "fetch them where there is a network, `python scripts/gpu/wheels.py FOLDER`, and give `--wheels FOLDER`"


def main() -> int:
    """Run the parts; returns the exit status."""
    args = _arguments()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    folder = Path(args.folder)
    if problem := _problem(args, folder):
        print(problem, file=sys.stderr)
        return 3
    for part in args.part:
        started = time.monotonic()
        run_part(part, folder, args.device, tiny=args.tiny)
        print(f"{part}: {counts(results_of(folder, part))} ({time.monotonic() - started:.0f} s)\n", flush=True)
    results = [each for part in PARTS for each in results_of(folder, part)]
    print(table(results))
    return int(any(each.outcome not in (RIGHT, ABSENT) for each in results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers that only a GPU can give.")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--resume", action="store_true", help="leave out the checks that have ended")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to rehearse on a CPU")
    parser.add_argument("--folder", default="gpu-results", help="of results and models (default: gpu-results)")
    parser.add_argument("--wheels", help="a folder of wheels for what is not installed")
    return parser.parse_args()


def _problem(args: argparse.Namespace, folder: Path) -> str:
    """Why nothing can run here; empty if it can. Prints the machine's facts, and writes them down."""
    if args.wheels and (problem := install(Path(args.wheels), folder / "packages")):
        return f"error: {problem}\n\nhint: {_WHEELS}"
    if lacking := missing():
        return f"error: not installed for {sys.executable}: {', '.join(lacking)}\n\nhint: {_WHEELS}"
    for each in unmet(NEEDED):
        print(f"warning: {each}", file=sys.stderr)
    facts, problem = look(args.device)
    print(json.dumps(facts), flush=True)
    if problem:
        return f"error: {problem}"
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, keep=args.resume)
    write(folder, Result(part="machine", check="facts", case=args.device, outcome=RIGHT, measured=facts))
    return ""


if __name__ == "__main__":
    sys.exit(main())

"""Finds out what only a GPU can answer, in parts of at most eight minutes, without a network.

    python scripts/gpu/accept.py [--part NAME …] [--resume] [--device cpu --tiny] [--folder FOLDER] [--wheels FOLDER]

Each check is a process of its own with a limit: one that crashes or hangs is a result too. Results are written as they
come, and --resume leaves out the checks that have ended. Exits with 1 if an answer is wrong.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # in place of this script's folder

from scripts.gpu.parts import PARTS  # noqa: E402
from scripts.gpu.results import ABSENT, FILE, RIGHT, Result, counts, read, table  # noqa: E402
from scripts.gpu.runner import END, run_part  # noqa: E402

NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "pydantic", "yaml")


def main() -> int:
    """Run the parts; returns the exit status."""
    args = _arguments()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    if args.wheels:
        _install(Path(args.wheels), Path(args.folder) / "packages")
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"not installed for {sys.executable}: {', '.join(missing)}", file=sys.stderr)
        print("hint: give a folder of their wheels with --wheels FOLDER", file=sys.stderr)
        return 3
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not args.resume:
        (folder / FILE).unlink(missing_ok=True)
    for part in args.part:
        started = time.monotonic()
        run_part(part, folder, args.device, tiny=args.tiny)
        print(f"{part}: {counts(_results(folder, part))} ({time.monotonic() - started:.0f} s)\n", flush=True)
    results = [each for part in PARTS for each in _results(folder, part)]
    print(table(results))
    return int(any(each.outcome not in (RIGHT, ABSENT) for each in results))


def _results(folder: Path, part: str) -> list[Result]:
    return [each for each in read(folder) if each.part == part and each.case != END]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers that only a GPU can give.")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--resume", action="store_true", help="leave out the checks that have ended")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to rehearse on a CPU")
    parser.add_argument("--folder", default="gpu-results", help="of results and models (default: gpu-results)")
    parser.add_argument("--wheels", help="a folder of wheels for what is not installed")
    return parser.parse_args()


def _install(wheels: Path, target: Path) -> None:
    """Install the wheels that are there beside the packages of this Python, which stay as they are."""
    found = [str(each) for each in sorted(wheels.glob("*.whl"))]
    flags = ("--quiet", "--no-index", "--no-deps", "--upgrade", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, *found], check=True)
    sys.path.insert(0, str(target.resolve()))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(target.resolve()), os.environ["PYTHONPATH"]])


if __name__ == "__main__":
    sys.exit(main())

"""The job's first process: checks the GPUs, starts `accelerate launch`, passes signals on, keeps the real status.

`accelerate launch` turns every failure into 1 and leaves the trainer behind when it is told to end; so each rank
is wrapped (`dimba.trainers.rank`) and notes its pid and how it ended, and this process reads those notes.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dimba import contract

_POLL = 0.05
ON_CPU_INSTEAD = "DIMBA_ON_CPU_INSTEAD"
REFUSAL_FILE = "refusal.json"  # beside the ranks' notes


def main(argv: list[str]) -> int:
    """Runs `argv`; returns the trainer's own exit status, or EXIT_NO_GPU before anything started."""
    status, said = _run(argv)
    if folder := os.environ.get(contract.ENV_ATTEMPT_DIR):
        word = {"exit_code": status, "reason": None, **said}
        Path(folder, contract.EXIT_FILE).write_text(json.dumps(word), encoding="utf-8")
    return status


def _run(argv: list[str]) -> tuple[int, dict[str, Any]]:
    secrets = _secrets()
    environment = {**os.environ, **secrets}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    wanted = int(environment.get(contract.ENV_GPU_COUNT, "0"))
    problem = _gpu_problem(wanted) if wanted else ""
    if problem and not environment.get(contract.ENV_ALLOW_CPU):
        print(f"error: {wanted} GPU(s) asked for, and {problem}", file=sys.stderr, flush=True)
        return contract.EXIT_NO_GPU, {"reason": contract.NO_GPU}
    if problem:
        print(f"on the CPU instead: {problem}", flush=True)
        environment |= {ON_CPU_INSTEAD: "1", "ACCELERATE_USE_CPU": "true"}
    asked: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _frame: asked.append(number))
    if argv[0] == contract.PREPARE:
        argv = argv[1:]
        status, said = _in_ranks(_preparation(argv), environment, asked)
        if status or asked:
            return status or contract.EXIT_STOPPED, said
    return _in_ranks(argv, environment, asked)


def _preparation(argv: list[str]) -> list[str]:
    """Tokenises what the trainer's flags name, before there are ranks that would wait for one of them."""
    wrapper = argv.index("dimba.trainers.rank")
    flags = argv[wrapper + 2 :]
    return [sys.executable, *argv[wrapper - 1 : wrapper + 1], "-m", "dimba.trainers.preview", "--lines", *flags]


def _in_ranks(argv: list[str], environment: dict[str, str], asked: list[int]) -> tuple[int, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="dimba-ranks-") as folder:
        status = _launch(argv, {**environment, contract.ENV_RANK_DIR: folder}, Path(folder), asked)
        return status, _refusal(Path(folder)) if status else {}


def _refusal(ranks: Path) -> dict[str, Any]:
    """What a trainer of ours said before it began to train, where it refused."""
    try:
        return {"reason": contract.REFUSED, **json.loads((ranks / REFUSAL_FILE).read_text(encoding="utf-8"))}
    except (OSError, ValueError):
        return {}


def _secrets() -> dict[str, str]:
    """Values that must not be seen in `docker inspect`: one JSON line on stdin."""
    if not os.environ.pop(contract.ENV_SECRETS_ON_STDIN, ""):
        return {}
    values: dict[str, str] = json.loads(sys.stdin.readline())
    return values


def _gpu_problem(wanted: int) -> str:
    """Why CUDA does not work here, by asking the driver: milliseconds, where importing torch takes seconds."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver's libcuda.so.1 is not visible here"
    status = cuda.cuInit(0)
    count = ctypes.c_int(0)
    if status or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver does not start (CUDA error {status})"
    return "" if count.value >= wanted else f"only {count.value} work"


def _launch(argv: list[str], environment: dict[str, str], ranks: Path, asked: list[int]) -> int:
    # Its own session: a Ctrl-C in the terminal reaches this process alone, which then tells the ranks.
    process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    told: set[int] = set()
    while process.poll() is None:
        # A rank that was not there yet when the signal came is told once it is.
        for note in _notes(ranks) if asked else []:
            if "status" not in note and note["pid"] not in told:
                told.add(note["pid"])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(note["pid"], asked[0])
        time.sleep(_POLL)
    return _status(_notes(ranks), process.returncode)


def _notes(ranks: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in ranks.glob("[0-9]*.json")]


def _status(notes: list[dict[str, Any]], launcher: int) -> int:
    """The status of the rank that failed first; a rank that left no status was killed."""
    ended = sorted((note for note in notes if "status" in note), key=lambda note: note["time"])
    failed = [int(note["status"]) for note in ended if note["status"]]
    if failed:
        return failed[0]
    if len(ended) < len(notes):
        return 128 + signal.SIGKILL
    return launcher if launcher >= 0 else 128 - launcher


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Seconds of `dimba ps -a`, `ps` and `logs RUN` with a thousand ended runs on record, and with ten.

PYTHONPATH=. python scripts/bench/records.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dimba.common.contract import LOG_FILE, RUN_FILE, SPEC_FILE
from dimba.records.record import Attempt, RunRecord

MANY, FEW, ROUNDS = 1000, 10, 5
NAME = "bench-20260101-000000"
DIFF = "+ a changed line\n" * 200


COMMANDS = (("ps", "-a"), ("ps",), ("logs", f"{NAME}-0001"))


def main() -> None:
    """Print the medians, in seconds."""
    with tempfile.TemporaryDirectory() as name:
        folders = [make_runs(Path(name, str(count)), count) for count in (FEW, MANY)]
        for command in COMMANDS:
            times = [[seconds(folder, *command) for folder in folders] for _ in range(ROUNDS)]
            few, many = (round(statistics.median(taken), 2) for taken in zip(*times, strict=True))
            print(json.dumps({"dimba": " ".join(command[:2]), f"{FEW} runs": few, f"{MANY} runs": many}))


def make_runs(folder: Path, count: int) -> Path:
    """Write the records of `count` ended runs into a folder."""
    for n in range(count):
        run = folder / "runs" / f"{NAME}-{n:04x}"
        run.mkdir(parents=True)
        attempt = Attempt(number=1, job="1:1", exit_code=0, exit_reason="completed")
        record = RunRecord(id=run.name, name="bench", status="succeeded", git_diff=DIFF, attempts=(attempt,))
        (run / RUN_FILE).write_text(json.dumps(record.as_json()), encoding="utf-8")
        (run / SPEC_FILE).write_text("version: 1\n", encoding="utf-8")
        (run / "attempts" / "1").mkdir(parents=True)
        (run / "attempts" / "1" / LOG_FILE).write_text("saved\n", encoding="utf-8")
    return folder


def seconds(folder: Path, *command: str) -> float:
    """Wall time of a command, in seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "dimba", *command],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

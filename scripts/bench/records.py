"""What a thousand ended runs on record cost: `dimba ps -a`, beside the same with ten.

PYTHONPATH=. python scripts/bench/records.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dimba.contract import RUN_FILE, SPEC_FILE
from dimba.runs.record import Attempt, RunRecord

MANY, FEW, ROUNDS = 1000, 10, 5
DIFF = "+ a line that somebody has changed\n" * 100


def main() -> None:
    """Prints the medians, in seconds."""
    with tempfile.TemporaryDirectory() as name:
        few, many = (filled(Path(name, str(count)), count) for count in (FEW, MANY))
        times: dict[Path, list[float]] = {few: [], many: []}
        for _ in range(ROUNDS):
            for folder, taken in times.items():
                taken.append(listing(folder))
    print(json.dumps({f"ps -a, {each.name} runs": round(statistics.median(times[each]), 2) for each in times}))


def filled(folder: Path, count: int) -> Path:
    """A folder with as many ended runs on record."""
    for n in range(count):
        run = folder / "runs" / f"bench-20260101-000000-{n:04x}"
        run.mkdir(parents=True)
        attempt = Attempt(number=1, job="1:1", exit_code=0, exit_reason="completed")
        record = RunRecord(id=run.name, name="bench", status="succeeded", git_diff=DIFF, attempts=(attempt,))
        (run / RUN_FILE).write_text(json.dumps(record.as_json()), encoding="utf-8")
        (run / SPEC_FILE).write_text("version: 1\n", encoding="utf-8")
    return folder


def listing(folder: Path) -> float:
    """Seconds of wall time."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dimba", "ps", "-a"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

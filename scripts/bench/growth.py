"""The cost of ten times the rows: of preparing them (reading, tokenising, masking, storing), and of a training pass.

    PYTHONPATH=. python scripts/bench/growth.py [FILE]

FILE is a .json array of instruction/input/output rows; without it, rows are generated. Measures CPU seconds without
imports and loading, each in a process of its own, in turn.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.bench.data import PREPARE, made_up, make_base

ROWS, TIMES, ROUNDS = 400, 10, 2
TRAINED = 40

# A training pass over tokenised rows.
TRAIN = """
import json, sys, time
from dimba.objectives.sft import SFT
from dimba.trainers.objectives.sft.train import train
from dimba.trainers.objectives.sft.causal_trainer import CausalTrainer
untimed = CausalTrainer.train
def timed(self, *args, **named):
    global seconds
    began = time.process_time()
    result = untimed(self, *args, **named)
    seconds = time.process_time() - began
    return result
CausalTrainer.train = timed
train(SFT.parse(sys.argv[1:]))
print(json.dumps({"seconds": seconds}))
"""


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")) if len(sys.argv) > 1 else made_up(1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = make_base(folder, rows)
        prepare = PREPARE.replace("time.perf_counter()", "time.process_time()")
        for what, code, count in (("preparing", prepare, ROWS), ("training on", TRAIN, TRAINED)):
            few, many = (write(folder / f"{what}-{n}.json", rows[:count], n) for n in (1, TIMES))
            costs = [[seconds(code, folder, base, data, f"{n}") for data in (few, many)] for n in range(ROUNDS)]
            ratios = sorted(more / less for less, more in costs)
            ratio = f"{statistics.median(ratios):.2f} × ({ratios[0]:.2f} to {ratios[-1]:.2f}; target 10.5)"
            print(f"{what} {count * TIMES:,} rows over {count:,}: {ratio}")


def write(path: Path, rows: list[dict[str, str]], times: int) -> Path:
    """Write all rows `times` times, each copy different."""
    many = [row | {"instruction": f"{n} {row['instruction']}"} for n in range(times) for row in rows]
    path.write_text(json.dumps(many), encoding="utf-8")
    return path


def seconds(code: str, folder: Path, base: Path, data: Path, name: str) -> float:
    out = folder / f"out-{data.stem}-{name}"
    flags = ["--base-checkpoint", str(base), "--dataset", str(data), "--output-dir", str(out), "--device", "cpu"]
    flags += ["--batch-size", "4", "--grad-accumulation-steps", "1", "--num-epochs", "1", "--on-long", "truncate"]
    environment = {"PYTHONPATH": ".", "HF_HOME": str(folder / f"cache-{name}"), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])


if __name__ == "__main__":
    main()

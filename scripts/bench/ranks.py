"""Tokens per second of one job with two processes, over two concurrent jobs with one process each, on the CPU.

Both run in turn, with one thread per process; the first steps are not counted.

PYTHONPATH=. python scripts/bench/ranks.py [ROUNDS]
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from dimba.trainers.tiny import make_checkpoint
from tests.conftest import REPOSITORY, write_rows
from tests.trainers.test_ranks import start

FLAGS = ["--device", "cpu", "--batch-size", "8", "--max-steps", "40", "--learning-rate", "1e-4", "--max-length", "256"]
WARM = 5
TRAINER = str(REPOSITORY / "scripts/finetuning/finetune_sft.py")


def main() -> None:
    """Print the ratio of each round, and their median."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        base, rows = prepared(place)
        ratios = []
        for n in range(rounds):
            apart = together(place, base, rows, [(1, f"a{n}"), (1, f"b{n}")])
            both = together(place, base, rows, [(2, f"c{n}")])
            ratios.append(both / apart)
            print(json.dumps({"two jobs": round(apart), "two processes": round(both), "ratio": round(ratios[-1], 2)}))
    print(json.dumps({"median ratio": round(statistics.median(ratios), 2)}))


def prepared(place: Path) -> tuple[Path, Path]:
    """Write a Llama of 9 M parameters and rows of about 100 tokens."""
    base = place / "base"
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8}
    make_checkpoint(base, [f"Count to {n}" for n in range(60)], **sizes)
    rows = [{"prompt": f"Count to {n}", "response": " ".join(map(str, range(20 + n % 30)))} for n in range(700)]
    return base, write_rows(place / "data.jsonl", rows)


def together(place: Path, base: Path, rows: Path, jobs: list[tuple[int, str]]) -> float:
    """Total tokens per second of concurrent jobs, each given as (processes, name)."""
    running = []
    for processes, name in jobs:
        named = ["--base-checkpoint", str(base), "--dataset", str(rows), "--output-dir", str(place / name), *FLAGS]
        running.append(start(place, processes, TRAINER, *named, "--grad-accumulation-steps", str(2 // processes)))
    for job in running:
        out, _ = job.communicate()
        if job.returncode:
            raise SystemExit(out)
    return sum(speed(place / name) for _processes, name in jobs)


def speed(output: Path) -> float:
    """Tokens per second after the first steps."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    begun, ended = lines[WARM], lines[-1]
    return float((ended["num_tokens"] - begun["num_tokens"]) / (ended["elapsed"] - begun["elapsed"]))


if __name__ == "__main__":
    main()

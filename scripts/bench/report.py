"""Seconds and bytes of `dimba report` for a run of 10,000 steps and for eight of them, beside `dimba --version`.

PYTHONPATH=. python scripts/bench/report.py
"""

import json
import math
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, RUNS, ROUNDS = 10_000, 8, 5
PARTS = ("grad_norm", "entropy", "kl", "reward", "rewards/margins", "rewards/accuracies", "frac_reward_zero_std")
REWARDS = ("rewards/exact/mean", "rewards/length/mean", "completions/mean_length", "completions/max_length")
SPEC = "version: 1\nmode: sft\nbase_checkpoint: b\ndataset: {{path: d.jsonl}}\nmethod: lora\ntraining: {{seed: {}}}\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [make_run(folder / "runs", number) for number in range(RUNS)]
        for runs, path in (([names[0]], folder / "runs" / names[0]), (names, folder)):
            taken = [seconds(folder, "report", *runs) for _ in range(ROUNDS)]
            size = (path / "report.html").stat().st_size
            print(json.dumps({"runs": len(runs), "steps": STEPS, **medians(taken), "MB": round(size / 1e6, 2)}))
        print(json.dumps({"dimba": "--version", **medians([seconds(folder, "--version") for _ in range(ROUNDS)])}))


def medians(taken: list[tuple[float, float]]) -> dict[str, float]:
    wall, processor = (round(statistics.median(each), 2) for each in zip(*taken, strict=True))
    return {"seconds": wall, "CPU seconds": processor}


def make_run(runs: Path, number: int) -> str:
    """Write a run that has measured 15 metrics in each step, and a validation loss in every hundredth."""
    name = f"bench-{number}"
    attempt = runs / name / "attempts" / "1"
    attempt.mkdir(parents=True)
    chance = random.Random(number)
    record = {"id": name, "name": "bench", "status": "succeeded", "attempts": [{"number": 1}]}
    (runs / name / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (runs / name / "job.yaml").write_text(SPEC.format(number), encoding="utf-8")
    with (attempt / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, STEPS + 1):
            loss = 2 + 4 * math.exp(-step / 1500) + chance.gauss(0, 0.1)
            line = {"step": step, "max_steps": STEPS, "loss": loss, "learning_rate": 2e-4 * (1 - step / STEPS)}
            line |= {"tokens_per_second": chance.gauss(9000, 300), "num_tokens": 9000 * step, "elapsed": 1.1 * step}
            file.write(json.dumps(line | {part: chance.random() for part in PARTS + REWARDS}) + "\n")
            if step % 100 == 0:
                file.write(json.dumps({"step": step, "max_steps": STEPS, "eval_loss": loss + 0.2}) + "\n")
    return name


def seconds(folder: Path, *command: str) -> tuple[float, float]:
    """Wall time and CPU time of a command, in seconds; the second counts no other work of the machine."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "dimba", *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, processor


if __name__ == "__main__":
    main()

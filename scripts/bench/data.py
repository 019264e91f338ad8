"""The cost of preparing data: compared with TRL's own preparation, with a warm cache, and in memory.

    python scripts/bench/data.py [FILE] [--gigabytes 2]

FILE is a .json array of instruction/input/output rows; without it, rows are generated. Each row is used 50 times.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COPIES = 50
ROUNDS = 3

# Runs in a process of its own, to measure its memory alone.
PREPARE = """
import json, sys, time
from dimba.objectives.sft import SFT
from dimba.trainers.data import chat, loading, rows, tokenization  # imports are not quantity
import transformers, tokenizers
from dimba.trainers.models.loading import load_tokenizer

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) << 10

args = SFT.parse(sys.argv[1:])
load_tokenizer(args.base_checkpoint)
before = most = anonymous()
def watch(_rows):
    global most
    if _rows % 500 == 0:
        most = max(most, anonymous())
began = time.perf_counter()
report = loading.load_data(args, watch).report
most = max(most, anonymous())
print(json.dumps({"seconds": time.perf_counter() - began, "rows": report.rows, "cached": report.cached,
                  "mib": (most - before) / 2**20}))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--gigabytes", type=float, default=0.2, help="size of the rows of the memory measurement")
    args = parser.parse_args()
    rows = json.loads(args.file.read_text(encoding="utf-8")) if args.file else made_up(1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = make_base(folder, rows)
        many = write(folder / "many.json", rows * COPIES)
        compare(folder, base, many)
        remember(folder, base, many)
        for suffix in (".json", ".jsonl"):
            memory(folder, base, large(folder / f"large{suffix}", rows, args.gigabytes))


def compare(folder: Path, base: Path, many: Path) -> None:
    """Compare both in turn, as the machine's speed varies."""
    ours, theirs = [], []
    for round_ in range(ROUNDS):
        ours.append(prepare(folder / f"cache{round_}", base, many))
        theirs.append(trl_seconds(base, many))
    ratios = sorted(their / our["seconds"] for our, their in zip(ours, theirs, strict=True))
    best = min(ours, key=lambda each: each["seconds"])
    print(f"preparing {best['rows']:,} rows: {best['seconds']:.1f} s, {best['rows'] / best['seconds']:,.0f} rows/s")
    print(f"over TRL's own preparation (its reading not counted, ours counted): {ratios[ROUNDS // 2]:.1f} x", end=" ")
    print(f"({ratios[0]:.1f} to {ratios[-1]:.1f}; target 1.0 x)")


def remember(folder: Path, base: Path, many: Path) -> None:
    again = prepare(folder / "cache0", base, many)
    assert again["cached"]
    print(f"with a warm cache: {again['seconds']:.2f} s (target 2 s)")


def memory(folder: Path, base: Path, file: Path) -> None:
    done = prepare(folder / "cache", base, file)
    size = file.stat().st_size / 1e9
    print(f"{size:.1f} GB of rows ({file.suffix}): {done['mib']:,.0f} MiB of memory of its own (target 1,024 MiB)")
    file.unlink()


def prepare(cache: Path, base: Path, file: Path) -> dict[str, float]:
    flags = ["--base-checkpoint", str(base), "--dataset", str(file), "--output-dir", "unused"]
    environment = {**os.environ, "HF_HOME": str(cache), "TOKENIZERS_PARALLELISM": "true", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, *flags], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def trl_seconds(base: Path, many: Path) -> float:
    """Seconds of SFTTrainer's preparation of the same chats, as prompt and completion."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    chats = datasets.Dataset.from_list([as_prompt_completion(row) for row in json.loads(many.read_text())])
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = SFTConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", max_length=1024)
    trainer = SFTTrainer(model, args=config, train_dataset=chats.select(range(8)), processing_class=tokenizer)
    began = time.perf_counter()
    trainer._prepare_dataset(chats, tokenizer, config, False, None, "train")
    return time.perf_counter() - began


def as_prompt_completion(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    question = row["instruction"] + (f"\n\n{row['input']}" if row["input"] else "")
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": row["output"]}],
    }


def make_base(folder: Path, rows: list[dict[str, str]]) -> Path:
    from dimba.trainers.tiny import make_checkpoint

    make_checkpoint(folder / "base", [text for row in rows for text in row.values()])
    return folder / "base"


def made_up(count: int) -> list[dict[str, str]]:
    words = re.findall(r"\w+", __doc__ or "")
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    return [{"instruction": text(12), "input": "", "output": text(draw.randint(20, 250))} for _ in range(count)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def large(path: Path, rows: list[dict[str, str]], gigabytes: float) -> Path:
    """Write the rows repeatedly, each copy different, as a .json array or one row per line."""
    array = path.suffix == ".json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n" if array else "")
        number = 0
        while file.tell() < gigabytes * 1e9:
            for row in rows:
                number += 1
                file.write(json.dumps({**row, "output": f"{number} {row['output']}"}) + (",\n" if array else "\n"))
        file.write(json.dumps(rows[0]) + ("]" if array else "\n"))
    return path


if __name__ == "__main__":
    main()

"""Completions per second of finetune_grpo.py and of a plain TRL script with the same settings, on the CPU.

    python scripts/bench/grpo.py

Both train the same Llama of 17 M parameters on the same sums with the same rewards, in turn, each in a process of its
own. The first step of each run, which is slower, is not counted.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROUNDS, STEPS = 3, 4
BATCH, ACCUMULATION, GENERATIONS, LENGTH = 8, 2, 8, 48


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(10, 30) for b in range(10, 30)]
        make_base(folder, rows)
        ours, theirs = [], []
        for number in range(ROUNDS):
            ours.append(our_seconds(folder, folder / f"ours-{number}"))
            theirs.append(their_seconds(folder, folder / f"theirs-{number}"))
    completions = BATCH * ACCUMULATION * (STEPS - 1)
    ratios = [slow / quick for slow, quick in zip(theirs, ours, strict=True)]
    rates = [completions / statistics.median(each) for each in (ours, theirs)]
    print(f"batch {BATCH} × {ACCUMULATION}, groups of {GENERATIONS}, completions of {LENGTH} tokens")
    print(f"completions per second: {rates[0]:.1f} against {rates[1]:.1f} of TRL's own script")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; target 1.0)")


def make_base(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write the rows and a random checkpoint, which hardly ever ends its turn, so that both sample as many tokens."""
    from dimba.trainers.tiny import make_checkpoint

    heads = {"num_attention_heads": 6, "num_key_value_heads": 6, "tie_word_embeddings": True}
    size: dict[str, Any] = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, **heads}
    make_checkpoint(folder / "base", [text for row in rows for text in row.values()], vocabulary=8192, **size)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def our_seconds(folder: Path, out: Path) -> float:
    """Seconds of all steps but the first, of finetune_grpo.py."""
    script = Path(__file__).parents[1] / "finetuning" / "finetune_grpo.py"
    flags = {
        "base-checkpoint": folder / "base", "dataset": folder / "rows.jsonl", "output-dir": out, "max-steps": STEPS,
        "batch-size": BATCH, "grad-accumulation-steps": ACCUMULATION, "num-generations": GENERATIONS,
        "max-completion-length": LENGTH, "learning-rate": 1e-6, "reward": "numeric", "device": "cpu",
    }  # fmt: skip
    argv = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    subprocess.run([sys.executable, str(script), *argv], check=True, capture_output=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return sum(float(line["step_time"]) for line in lines[1:] if "step_time" in line)


def their_seconds(folder: Path, out: Path) -> float:
    """Seconds of all steps but the first, of a script like that of TRL's documentation."""
    done = subprocess.run(
        [sys.executable, __file__, "--plain", str(folder), str(out)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def plain(folder: Path, out: Path) -> None:
    """Train with TRL's defaults except for the common settings, and print the seconds."""
    from datasets import load_dataset
    from trl import GRPOConfig, GRPOTrainer

    def as_prompt(row: dict[str, str]) -> dict[str, object]:
        return {"prompt": [{"role": "user", "content": row["question"]}]}

    def right(completions: list[list[dict[str, str]]], answer: list[str], **_: object) -> list[float]:
        return [float(each[0]["content"].strip() == one) for each, one in zip(completions, answer, strict=True)]

    rows = load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train").map(as_prompt)
    args = GRPOConfig(
        output_dir=str(out), max_steps=STEPS, per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATION, num_generations=GENERATIONS, max_completion_length=LENGTH,
        learning_rate=1e-6, use_cpu=True, bf16=False, logging_steps=1, report_to="none", save_strategy="no",
    )  # fmt: skip
    trainer = GRPOTrainer(model=str(folder / "base"), reward_funcs=right, args=args, train_dataset=rows)
    trainer.train()
    print(sum(line["step_time"] for line in trainer.state.log_history[1:] if "step_time" in line))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()

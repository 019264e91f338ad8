"""Small jobs for the checks: their models and data, and a trainer run to its end."""

import contextlib
import json
import os
import signal
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from dimba.common.contract import LEARNING_FILE, METRICS_FILE
from dimba.objectives.registry import OBJECTIVES
from dimba.trainers.command import run_trainer
from dimba.trainers.objectives.registry import training_half
from dimba.trainers.tiny import make_checkpoint
from scripts.gpu.context import Context

STEPS = 6
_REAL: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
}
_ROWS = {
    "sft": [{"prompt": f"What is {n} + {n}?", "response": f"It is {2 * n}."} for n in range(64)],
    "dpo": [
        {"prompt": f"What is {n} + {n}?", "chosen": f"It is {2 * n}, gladly.", "rejected": f"It is {n}."}
        for n in range(64)
    ],
    "grpo": [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(64)],
}
_FLAGS = {
    "sft": ("--learning-rate", "1e-4"),
    "dpo": ("--learning-rate", "1e-5"),
    "grpo": ("--learning-rate", "1e-5", "--reward", "length", "--max-completion-length", "16"),
}


def base(context: Context) -> Path:
    """A random Llama, of about 0.4 M parameters if tiny, else 90 M."""
    folder = context.folder / ("tiny" if context.tiny else "small")
    if not (folder / "config.json").exists():
        texts = [str(value) for rows in _ROWS.values() for row in rows for value in row.values()]
        make_checkpoint(folder, texts, **({} if context.tiny else _REAL))
    return folder


def rows(context: Context, mode: str) -> Path:
    """The data of a mode."""
    path = context.folder / f"{mode}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _ROWS[mode]), encoding="utf-8")
    return path


def flags(context: Context, mode: str, out: Path, *more: str) -> list[str]:
    """The command line of a trainer."""
    named = {"--base-checkpoint": base(context), "--dataset": rows(context, mode), "--output-dir": out}
    steps = ("--batch-size", "4", "--grad-accumulation-steps", "2", "--max-steps", str(STEPS), "--max-length", "128")
    given = [str(part) for pair in named.items() for part in pair]
    return [*given, *steps, "--save-steps", "3", *_FLAGS[mode], *more]


def train(context: Context, mode: str, out: Path, *more: str) -> int:
    """Train in this process; returns the exit status."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with contextlib.suppress(SystemExit):
            return run_trainer(training_half(mode).train, OBJECTIVES[mode].parse(flags(context, mode, out, *more)))
        return 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def losses(out: Path) -> list[float]:
    """The loss of each step, in the order of the steps."""
    lines = [json.loads(line) for line in (out / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def learning(out: Path) -> dict[str, object]:
    """What the trainer found out about the saved model."""
    found: dict[str, object] = json.loads((out / LEARNING_FILE).read_text(encoding="utf-8"))
    return found


def distance(found: list[float], reference: list[float]) -> float:
    """The mean difference of two curves of losses, as a share of the reference's mean."""
    pairs = zip(found, reference, strict=True)
    return fmean(abs(one - two) for one, two in pairs) / max(fmean(map(abs, reference)), 1e-9)

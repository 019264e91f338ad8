"""Small jobs for the checks: their models and data, and a trainer run to its end."""

import contextlib
import fcntl
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

from dimba.common.contract import LEARNING_FILE, METRICS_FILE
from dimba.objectives.registry import OBJECTIVES
from dimba.trainers.command import run_trainer
from dimba.trainers.objectives.registry import training_half
from dimba.trainers.tiny import make_checkpoint
from scripts.gpu.context import Context

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
METHODS: dict[str, tuple[str, ...]] = {"full": (), "lora": ("--use-lora",), "qlora": ("--use-qlora",)}
_REAL: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
}
_MASKED: dict[str, dict[str, Any]] = {  # tests/ have the layouts of models with own code
    "dimba": {"d_model": 512, "num_layers": 6, "headdim": 64, "ffn_dim": 1536},
    "llada": {"hidden_size": 512, "num_hidden_layers": 6},
    "Dream": {"hidden_size": 512, "num_hidden_layers": 6},
}
_LONG = " ".join(f"{n} and {n} are {2 * n}." for n in range(100))
_ROWS = {
    "sft": [{"prompt": f"What is {n} + {n}?", "response": f"It is {2 * n}."} for n in range(64)],
    "dpo": [
        {"prompt": f"What is {n} + {n}?", "chosen": f"It is {2 * n}, gladly.", "rejected": f"It is {n}."}
        for n in range(64)
    ],
    "grpo": [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(64)],
    "long": [{"prompt": f"Count from {n}.", "response": f"{_LONG} {n}"} for n in range(64)],  # about 1,000 tokens each
}
_FLAGS = {
    "sft": ("--learning-rate", "1e-4"),
    "dpo": ("--learning-rate", "1e-5"),
    "grpo": ("--learning-rate", "1e-5", "--reward", "length", "--max-completion-length", "16"),
}


def base(context: Context) -> Path:
    """A random Llama, of about 0.4 M parameters if tiny, else 90 M."""
    folder = context.folder / ("tiny" if context.tiny else "small")
    with _alone(folder):
        if not (folder / "config.json").exists():
            texts = [str(value) for rows in _ROWS.values() for row in rows for value in row.values()]
            make_checkpoint(folder, texts, **({} if context.tiny else _REAL))
    return folder


def on_masked_base(context: Context, model_type: str) -> tuple[str, ...]:
    """The flags that name a random masked-diffusion base of this model type in place of `base`."""
    from tests.trainers.masked.bases import make_masked

    folder = context.folder / f"{'tiny' if context.tiny else 'small'}-{model_type}"
    with _alone(folder):
        if not (folder / "config.json").exists():
            make_masked(folder, model_type, **({} if context.tiny else _MASKED[model_type]))
    return "--base-checkpoint", str(folder), "--trust-remote-code"


def rows(context: Context, name: str) -> Path:
    """The data of a mode, or of another name in _ROWS."""
    path = context.folder / f"{name}.jsonl"
    with _alone(path):
        if not path.exists():
            path.write_text("".join(json.dumps(row) + "\n" for row in _ROWS[name]), encoding="utf-8")
    return path


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock beside `path`: checks that run at the same time share models, data and references."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def flags(context: Context, mode: str, out: Path, *more: str) -> list[str]:
    """The command line of a trainer, whose output folder is removed; later flags count more."""
    shutil.rmtree(out, ignore_errors=True)  # of a check that was ended
    named = {"--base-checkpoint": base(context), "--dataset": rows(context, mode), "--output-dir": out}
    steps = ("--batch-size", "4", "--grad-accumulation-steps", "2", "--max-steps", str(STEPS), "--max-length", "128")
    given = [str(part) for pair in named.items() for part in pair]
    return [*given, *steps, "--save-steps", "3", *_FLAGS[mode], "--device", context.device, *more]


def train(context: Context, mode: str, out: Path, *more: str, precision: str = "") -> int:
    """Train in this process; returns the exit status. `precision` is what `accelerate launch` would set."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = _take_settings()
    os.environ.update(before)
    if precision:
        os.environ["ACCELERATE_MIXED_PRECISION"] = precision
    try:
        _release_memory()
        with contextlib.suppress(SystemExit):
            return run_trainer(training_half(mode).train, OBJECTIVES[mode].parse(flags(context, mode, out, *more)))
        return 2
    finally:
        _take_settings()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _take_settings() -> dict[str, str]:
    """Removes accelerate's settings from the environment, where a run leaves its own; returns them."""
    return {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ACCELERATE_")}


def _release_memory() -> None:
    """Of earlier runs in this process, so that a run's peak is its own."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def script(mode: str) -> str:
    """The trainer of a mode."""
    return str(ROOT / OBJECTIVES[mode].script)


def reference(context: Context, mode: str, method: str, name: str = "", *more: str) -> list[float]:
    """The losses of a run in float32 on the CPU, made once for all checks; one with `more` flags has a `name`.

    Raises:
        RuntimeError: that run failed.
    """
    out, flags_of_it = context.folder / f"{name or mode}-{method}-reference", (*METHODS[method], *more)
    with _alone(out):
        if not (out / LEARNING_FILE).exists() and (status := _train_on_cpu(context, mode, out, *flags_of_it)):
            raise RuntimeError(f"the reference on the CPU ended with exit status {status}")
    return losses(out)


def _train_on_cpu(context: Context, mode: str, out: Path, *more: str) -> int:
    if context.device == "cpu":
        return train(context, mode, out, *more, precision="no")
    # In a process of its own: the libraries keep what they find out about the device.
    command = [sys.executable, script(mode), *flags(context, mode, out, *more, "--device", "cpu")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_MIXED_PRECISION": "no"}
    return subprocess.run(command, env=environment, check=False).returncode


def losses(out: Path) -> list[float]:
    """The loss of each step, in the order of the steps."""
    return [line["loss"] for line in metrics(out) if "loss" in line]


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (out / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def learning(out: Path) -> dict[str, object]:
    """What the trainer found out about the saved model."""
    found: dict[str, object] = json.loads((out / LEARNING_FILE).read_text(encoding="utf-8"))
    return found


def distance(found: list[float], expected: list[float]) -> float:
    """The mean difference of two curves of losses, as a share of the mean of `expected`; infinite if one is shorter."""
    if len(found) != len(expected) or not found:
        return float("inf")
    pairs = zip(found, expected, strict=True)
    return fmean(abs(one - two) for one, two in pairs) / max(fmean(map(abs, expected)), 1e-9)

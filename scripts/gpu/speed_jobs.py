"""Timed steps of dimba's trainers and of plain TRL, with the same random model, rows and settings."""

from __future__ import annotations

import gc
import json
import random
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, TrainerCallback

from dimba.objectives.registry import OBJECTIVES
from dimba.trainers.tiny import make_tokenizer
from scripts.bench.memory import MODELS
from scripts.gpu.context import Context
from scripts.gpu.memory_jobs import MADE, random_model, random_weights

_WARM = 3  # steps before the measured ones
_RANK = 16
_LEAST = 0.1  # of the longest row, where lengths are mixed
_MEAN = (_LEAST + 1) / 2
_METHODS: dict[str, tuple[str, ...]] = {"full": (), "lora": ("--use-lora",), "qlora": ("--use-qlora",)}
_ADAPTER = {"r": _RANK, "lora_alpha": 2 * _RANK, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@dataclass(frozen=True)
class SpeedCase:
    """A job: rows of `length` tokens, or of a tenth of it to all of it if they are `mixed`; `completion` in GRPO."""

    model: str
    method: str
    batch: int
    length: int
    mode: str = "sft"
    steps: int = 8
    mixed: bool = False
    completion: int = 0
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The case in a few words."""
        return f"{self.model} {self.mode} {self.method} {self.batch}×{self.length}"


@dataclass(frozen=True)
class Speed:
    """Tokens (in GRPO completions) per second of the steps after the first ones, and the median of a step."""

    rate: float
    step: float


class _Clock(TrainerCallback):  # type: ignore[misc]
    """The time at the end of each step, when the device has done its work."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, *_: Any, **__: Any) -> None:
        """Note the time."""
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def tiny_of(case: SpeedCase) -> SpeedCase:
    """The case for a rehearsal on a CPU."""
    values = {**vars(case), "model": "tiny", "batch": min(case.batch, 4), "length": 64, "steps": 2}
    return SpeedCase(**{**values, "completion": 8 if case.completion else 0})


def ours(case: SpeedCase, context: Context) -> Speed:
    """The speed of dimba's own trainer."""
    folder = _base(case, context)
    options = OBJECTIVES[case.mode].parse(_flags(folder, case, context))
    with random_weights(context.device):
        trainer = MADE[case.mode](options, context.device)[0]
    return _timed(trainer, case, context)


def plain_trl(case: SpeedCase, context: Context, **settings: Any) -> Speed:
    """The speed of TRL's trainer at its defaults, apart from `settings` and what makes the work the same."""
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    folder = _base(case, context)
    config, trainer = (GRPOConfig, GRPOTrainer) if case.mode == "grpo" else (SFTConfig, SFTTrainer)
    on_cpu = context.device == "cpu"
    common: dict[str, Any] = {
        "output_dir": str(folder / "trl"), "per_device_train_batch_size": case.batch, "report_to": "none",
        "max_steps": _WARM + case.steps, "logging_steps": 1, "save_strategy": "no", "use_cpu": on_cpu,
        "bf16": not on_cpu, "disable_tqdm": True,
    }  # fmt: skip
    common |= {"max_length": case.length} if case.mode == "sft" else _grpo_settings(case)
    rewards = {"reward_funcs": _constant} if case.mode == "grpo" else {}
    if settings.get("packing") and case.mixed:  # packs with about as many tokens per step as the rows
        common["per_device_train_batch_size"] = max(1, round(_MEAN * case.batch))
    made = trainer(
        model=random_model(str(folder), context.device, dtype=torch.float32),
        args=config(**(common | settings)),
        train_dataset=_dataset(folder, case),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(**_ADAPTER) if case.method == "lora" else None,
        **rewards,
    )
    return _timed(made, case, context)


def _constant(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(str(each)) % 7) for each in completions]


def _grpo_settings(case: SpeedCase) -> dict[str, Any]:
    return {"num_generations": 4, "max_completion_length": case.completion}


def _timed(trainer: Any, case: SpeedCase, context: Context) -> Speed:
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.args.save_strategy = "no"
    trainer.train()
    steps = [after - before for before, after in pairwise(clock.times[_WARM - 1 :])]
    work = case.batch * len(steps) if case.mode == "grpo" else _tokens(trainer.state.log_history)
    del trainer
    gc.collect()
    if context.device == "cuda":
        torch.cuda.empty_cache()
    return Speed(work / sum(steps), median(steps))


def _tokens(logs: list[dict[str, float]]) -> float:
    """The tokens of the measured steps, without padding, as either trainer logs them; packs hold more than rows."""
    counts = [each["num_tokens"] for each in logs if "num_tokens" in each and "loss" in each]
    return counts[-1] - counts[_WARM - 1]


def _base(case: SpeedCase, context: Context) -> Path:
    folder = context.folder / "speed" / f"{case.name}{' mixed' if case.mixed else ''}".replace(" ", "-")
    if (folder / "rows.jsonl").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    kind, numbers = MODELS[case.model]
    AutoConfig.for_model(kind, **numbers).save_pretrained(folder)
    make_tokenizer(["a question of words, an answer of words"] * 2).save_pretrained(folder)
    lines = [json.dumps(row) for row in _rows(case)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _rows(case: SpeedCase) -> list[dict[str, str]]:
    """As many rows as the job takes, one token a word, with room for the template."""
    chance = random.Random(0)
    count = (_WARM + case.steps) * case.batch
    shares = [chance.uniform(_LEAST, 1.0) if case.mixed else 1.0 for _ in range(count)]
    lengths = [max(1, int(share * case.length) - case.completion - 48) for share in shares]
    if case.mode == "grpo":
        return [{"question": f"{number}" + " words" * each, "answer": "1"} for number, each in enumerate(lengths)]
    return [{"prompt": f"{number}", "response": "words" + " words" * each} for number, each in enumerate(lengths)]


def _chat(row: dict[str, str]) -> list[dict[str, str]]:
    question = {"role": "user", "content": row.get("prompt", row.get("question", ""))}
    return [question, {"role": "assistant", "content": row["response"]}] if "response" in row else [question]


def _dataset(folder: Path, case: SpeedCase) -> Any:
    from datasets import Dataset

    if case.mode == "grpo":
        return Dataset.from_list([{"prompt": _chat(row)} for row in _rows(case)])
    return Dataset.from_list([{"prompt": _chat(row)[:1], "completion": _chat(row)[1:]} for row in _rows(case)])


def _flags(folder: Path, case: SpeedCase, context: Context) -> list[str]:
    named: dict[str, object] = {
        "--base-checkpoint": folder, "--dataset": folder / "rows.jsonl", "--output-dir": folder / "out",
        "--batch-size": case.batch, "--grad-accumulation-steps": 1, "--max-steps": _WARM + case.steps,
        "--max-length": case.length, "--lora-r": _RANK, "--lora-alpha": 2 * _RANK, "--device": context.device,
    }  # fmt: skip
    if case.mode == "grpo":
        named |= {"--reward": "length", "--max-completion-length": case.completion, "--num-generations": 4}
    return [str(each) for pair in named.items() for each in pair] + [*_METHODS[case.method], *case.flags]

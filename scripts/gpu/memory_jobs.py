"""A job of two steps with a random model that is made on the device: nothing of its weights touches the disk."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from dimba.objectives.registry import OBJECTIVES
from dimba.trainers.data.loading import load_data
from dimba.trainers.models.loading import choose_compute, load_model
from dimba.trainers.objectives.callbacks import StopOnSignal
from dimba.trainers.objectives.dpo.causal import make_trainer as dpo_trainer
from dimba.trainers.objectives.dpo.pairs import load_pairs
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.objectives.grpo.trainer import make_trainer as grpo_trainer
from dimba.trainers.objectives.sft.causal import make_trainer as sft_trainer
from dimba.trainers.progress import row_printer
from dimba.trainers.rewards import make_reward
from dimba.trainers.tiny import make_tokenizer
from scripts.bench.memory import MODELS, RANK
from scripts.gpu.context import Context
from scripts.gpu.memory_cases import GpuCase

STEPS = 2
_SPARE = 48  # tokens of the template, and of what a row is more than its words
_METHODS: dict[str, tuple[str, ...]] = {"full": (), "lora": ("--use-lora",), "qlora": ("--use-qlora",)}


def losses_of(case: GpuCase, context: Context) -> tuple[list[float], int]:
    """(the losses of a job of two steps, the tokens of its longest row)."""
    folder = context.folder / "memory" / case.name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    _write_base(folder, case)
    options = OBJECTIVES[case.mode].parse(_flags(folder, case, context))
    with random_weights(context.device):
        trainer, longest = MADE[case.mode](options, context.device)
    trainer.args.save_strategy = "no"
    free_memory()  # quantising held the weights twice
    trainer.train()
    return [each["loss"] for each in trainer.state.log_history if "loss" in each], longest


def free_memory() -> None:
    """Give the GPU back what nothing uses, and begin a new peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _write_base(folder: Path, case: GpuCase) -> None:
    kind, numbers = MODELS[case.model]
    AutoConfig.for_model(kind, **numbers).save_pretrained(folder)
    tokenizer = make_tokenizer(["a question of words, an answer of words"] * 2)
    tokenizer.save_pretrained(folder)
    made = {"sft": _rows, "dpo": _pairs, "grpo": _prompts}[case.mode](case)
    count = STEPS * case.batch * case.accumulation
    lines = [json.dumps({name: f"{number} {text}" for name, text in made.items()}) for number in range(count)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _words(tokens: int) -> str:
    return " words" * max(1, tokens - _SPARE)  # one token each: the tokenizer was trained on them


def _rows(case: GpuCase) -> dict[str, str]:
    return {"prompt": "words", "response": _words(case.length)}


def _pairs(case: GpuCase) -> dict[str, str]:
    return {"prompt": "words", "chosen": _words(case.length), "rejected": f"no {_words(case.length)}"}


def _prompts(case: GpuCase) -> dict[str, str]:
    return {"question": _words(case.length - case.completion), "answer": "words"}


def _flags(folder: Path, case: GpuCase, context: Context) -> list[str]:
    named: dict[str, object] = {
        "--base-checkpoint": folder,
        "--dataset": folder / "rows.jsonl",
        "--output-dir": folder / "out",
    }
    named |= {"--batch-size": case.batch, "--grad-accumulation-steps": case.accumulation, "--max-steps": STEPS}
    named |= {"--max-length": case.length, "--lora-r": RANK, "--lora-alpha": 2 * RANK, "--device": context.device}
    named |= {"--activation-checkpointing": case.checkpointing}
    if case.mode == "grpo":
        named |= {"--reward": "length", "--max-completion-length": case.completion, "--num-generations": 4}
    else:
        named |= {"--attention": case.attention}
    return [str(each) for pair in named.items() for each in pair] + list(_METHODS[case.method])


def _sft(options: Any, device: str) -> tuple[Any, int]:
    compute = choose_compute(device, options.mixed_precision)
    data = load_data(options, row_printer())
    model = load_model(options, compute, attention=options.attention)
    return sft_trainer(options, model, data, compute, StopOnSignal()), data.report.longest


def _dpo(options: Any, device: str) -> tuple[Any, int]:
    data = load_pairs(options, row_printer())
    compute = choose_compute(device, options.mixed_precision)
    model = load_model(options, compute, attention=options.attention)
    return dpo_trainer(options, model, data, compute, StopOnSignal()), data.report.longest


def _grpo(options: Any, device: str) -> tuple[Any, int]:
    prompts = load_prompts(options, row_printer())
    rewards = [make_reward(each) for each in prompts.rewards]
    longest = prompts.report.longest + options.max_completion_length
    return grpo_trainer(options, prompts, rewards, choose_compute(device, samples=True), []), longest


MADE: dict[str, Callable[[Any, str], tuple[Any, int]]] = {"sft": _sft, "dpo": _dpo, "grpo": _grpo}


@contextmanager
def random_weights(device: str) -> Iterator[None]:
    """Make models of the trainers at random on the device, from their configuration alone."""

    def made(_kind: Any, checkpoint: str, *_: Any, quiet: bool = False, **settings: Any) -> PreTrainedModel:
        return random_model(checkpoint, device, **settings)

    def unchecked(*_: Any) -> None:
        """There are no weights to check."""

    with mock.patch.multiple("dimba.trainers.models.loading", load_complete=made, check_checkpoint=unchecked):
        yield


def random_model(
    checkpoint: str, device: str, *, dtype: torch.dtype, quantization_config: Any = None, **settings: Any
) -> PreTrainedModel:
    """A random model of a configuration, quantised by transformers' own loading if that is asked for."""
    config = AutoConfig.from_pretrained(checkpoint)
    attention = {name: value for name, value in settings.items() if name == "attn_implementation"}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **attention)
    if quantization_config is None:
        return model
    return type(model).from_pretrained(
        None,
        config=config,
        state_dict=model.state_dict(),
        dtype=dtype,
        quantization_config=quantization_config,
        device_map=settings["device_map"],
        **attention,
    )

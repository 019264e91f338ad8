"""GRPO's trainer: groups of sampled completions and their rewards."""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOTrainer

from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.objectives.grpo.prompts import Prompt
from dimba.trainers.objectives.grpo.sample_log import Sample, SampleLog
from dimba.trainers.objectives.grpo.sampled import decode, trl_reward
from dimba.trainers.objectives.grpo.sampling.ratio import agreement
from dimba.trainers.objectives.grpo.sampling.sampler import Ids, Sampler
from dimba.trainers.rewards import Reward

# Columns of TRL's log; a reward's `log_extra` may have any other name.
_COLUMNS = ("dimba/row", "dimba/text", "dimba/tokens")
_SILENT = ("All reward functions returned None", "You passed `model_init_kwargs`", "When using `'luspo'` loss")


class GroupTrainer(CompleteCheckpoints, GRPOTrainer):
    """TRL's trainer, with our rewards and a log of samples."""

    def __init__(
        self, *, rewards: Sequence[Reward], prompts: Sequence[Prompt], samples: SampleLog, **arguments: Any
    ) -> None:
        self.rewards, self._prompts, self._sample_log = rewards, prompts, samples
        self._batch_rows: list[int] = []  # of the prompts that are being completed
        self._sampler: Sampler | None = None  # None: transformers' `generate`
        limit = arguments["args"].max_completion_length
        functions = [trl_reward(reward, prompts, arguments["processing_class"], limit) for reward in rewards]
        logging.getLogger(GRPOTrainer.__module__).addFilter(_is_kept)
        super().__init__(reward_funcs=functions, train_dataset=as_dataset(prompts), **arguments)

    def probed_loss(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of completions that are not trained on, for `dimba.trainers.models.memory`."""
        return self._compute_loss(model, inputs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._batch_rows = [each["row"] for each in inputs]
        batch = dict(super()._generate_and_score_completions(inputs))
        if self._sampler is not None:
            self._log_agreement(self._sampler.name, batch)
        return batch

    def _log_agreement(self, sampler: str, batch: dict[str, torch.Tensor]) -> None:
        """Log how far the sampler's probabilities are from the trainer's; raises RunFailed if they are another model's.

        They take the place of TRL's own figures, whose ratios are truncated already.
        """
        found = agreement(batch, self.accelerator).required(sampler, self.state.global_step)
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in [each for each in metrics if each.startswith("sampling/")]:
            del metrics[name]
        for name, value in found.metrics().items():
            metrics[name].append(value)

    def sample_with(self, sampler: Sampler) -> None:
        """Sample with `sampler` from now on, in place of `generate`, and correct the loss for its probabilities."""
        self._sampler = sampler
        self.use_vllm = True  # TRL's name for it; nothing else that depends on it is reached

    def _generate_single_turn(
        self, prompt_ids: Ids, *args: Any, **settings: Any
    ) -> tuple[Ids, list[list[float]] | None]:
        start = time.perf_counter()
        if self._sampler is None:
            # Around all tokens: the model's own autocast would convert float32 weights again for each of them.
            is_adapter = hasattr(self.model, "peft_config")
            with nullcontext() if is_adapter else self.accelerator.autocast():
                ids, logprobs = self._sample_by_model(prompt_ids, *args, **settings)
        else:
            sampled = self._sampler.sample(prompt_ids, self.num_generations)
            ids, logprobs = sampled.ids, sampled.logprobs
        rate = len(ids) * self.accelerator.num_processes / (time.perf_counter() - start)
        self._metrics["train" if self.model.training else "eval"]["sampled_per_second"].append(rate)
        return ids, logprobs

    def _sample_by_model(self, prompt_ids: Ids, *args: Any, **settings: Any) -> tuple[Ids, list[list[float]] | None]:
        sampled: tuple[Ids, list[list[float]] | None] = super()._generate_single_turn(prompt_ids, *args, **settings)
        return sampled

    def greedy(self, model: PreTrainedModel, prompt_ids: Ids) -> Ids:
        """The tokens of each prompt's likeliest completion, with or without what follows its first end token."""
        ids = {"input_ids": prompt_ids}
        inputs = self.processing_class.pad(ids, padding_side="left", return_tensors="pt").to(self.accelerator.device)
        output = model.generate(**inputs, max_new_tokens=self.max_completion_length, do_sample=False)
        completions: Ids = output[:, inputs["input_ids"].shape[1] :].tolist()
        return completions

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # The prompts are tokens already, with the arguments, the tools and the date of `dimba data`.
        return [list(self._prompts[row].ids) for row in self._batch_rows], None, {}

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        rows = [each["row"] for each in inputs]
        texts = decode(self.processing_class, [self._prompts[row] for row in rows], completion_ids_list)
        for name, values in zip(_COLUMNS, (rows, texts, map(len, completion_ids_list)), strict=True):
            self._log_completion_extra(name, values)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the step, and its completions if they are due."""
        super().log(logs, start_time)
        is_due = self._sample_log.is_due(self.state.global_step, self.state.max_steps)
        if "loss" in logs and is_due and self.accelerator.is_main_process:
            self._sample_log.write(self.state.global_step, self.samples())

    def samples(self) -> list[Sample]:
        """The completions of the last step, each with its prompt's row, its rewards and its advantage."""
        logs, by_name = self._logs, self._logs["rewards"]
        rewards = [dict(zip(by_name, each, strict=True)) for each in zip(*by_name.values(), strict=True)]
        columns = (*(logs["extra"][name] for name in _COLUMNS), rewards, logs["advantages"])
        return [self._sample(*each) for each in zip(*columns, strict=True)]

    def _sample(self, row: int, text: str, tokens: int, rewards: dict[str, float], advantage: float) -> Sample:
        prompt = self._prompts[row]
        applicable = {name: None if math.isnan(value) else value for name, value in rewards.items()}
        return {
            "step": self.state.global_step,
            "row": str(prompt.where),
            "prompt": list(prompt.example.messages),
            "completion": text,
            "tokens": tokens,
            "reference": prompt.example.reference,
            "rewards": applicable,
            "reward": self.total_reward(list(applicable.values())),
            "advantage": advantage,
        }

    def total_reward(self, rewards: Sequence[float | None]) -> float | None:
        """The weighted sum of a completion's rewards; None if no reward applies."""
        pairs = zip(rewards, self.reward_weights.tolist(), strict=True)
        known = [reward * weight for reward, weight in pairs if reward is not None]
        return sum(known) if known else None


def _is_kept(record: logging.LogRecord) -> bool:
    """False for TRL's warnings about each completion without a reward, which repeats the whole row, and settings.

    The settings are for the reference, which TRL loads with them.
    """
    return not any(each in str(record.msg) for each in _SILENT)


def as_dataset(prompts: Sequence[Prompt]) -> Dataset:
    """A data set of `prompt` (messages) and `row`, an index into `prompts`."""

    def fetch(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {"prompt": [list(prompts[row].example.messages) for row in batch["row"]], "row": batch["row"]}

    return Dataset.from_dict({"row": list(range(len(prompts)))}).with_transform(fetch)

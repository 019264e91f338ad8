"""What GRPO trains on: groups of sampled completions and their rewards. The seam beside `objective`."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerState
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.objectives.grpo.prompts import Asked, Prompts
from dimba.trainers.rewards import Answers, Reward

_TRIED = 4  # prompts
_KEPT = ("dimba/row", "dimba/text", "dimba/tokens")  # columns of TRL's that no reward's `log_extra` writes into


class GroupTrainer(CompleteCheckpoints, GRPOTrainer):
    """TRL's trainer, with rewards of ours, their samples on record, and a greedy test on held-out prompts."""

    def __init__(
        self, *, rewards: Sequence[Reward], asked: Sequence[Asked], samples: Path, sample_steps: int, **options: Any
    ) -> None:
        self._rewards, self._asked = rewards, asked
        self._samples, self._sample_steps, self._begun = samples, sample_steps, False
        limit = options["args"].max_completion_length
        functions = [_as_function(reward, asked, options["processing_class"], limit) for reward in rewards]
        logging.getLogger(GRPOTrainer.__module__).addFilter(_is_new)
        super().__init__(reward_funcs=functions, train_dataset=as_dataset(asked), **options)

    def probed_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """For `dimba.trainers.models.memory`: the loss of completions that are not trained on."""
        return self._compute_loss(model, inputs)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        rows, texts = [each["row"] for each in inputs], _texts(self.processing_class, completion_ids_list)
        for name, values in zip(_KEPT, (rows, texts, map(len, completion_ids_list)), strict=True):
            self._log_completion_extra(name, values)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the completions of the step to the samples, every so many steps."""
        super().log(logs, start_time)
        step = self.state.global_step
        due = step % self._sample_steps == 0 or step in (1, self.state.max_steps)
        if "loss" in logs and due and self.accelerator.is_main_process:
            self._begin_samples(step)
            with self._samples.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in self.samples())

    def _begin_samples(self, step: int) -> None:
        """Drops what an earlier attempt sampled from this step on, which is trained again."""
        if not self._begun and self._samples.exists():
            with self._samples.open(encoding="utf-8") as file:
                kept = [line for line in file if line.endswith("\n") and json.loads(line)["step"] < step]
            self._samples.write_text("".join(kept), encoding="utf-8")
        self._begun = True

    def samples(self) -> list[dict[str, Any]]:
        """The completions of the last step, each with its prompt's row, its rewards and its advantage."""
        logs = self._logs
        given = [dict(zip(logs["rewards"], each, strict=True)) for each in zip(*logs["rewards"].values(), strict=True)]
        columns = (*(logs["extra"][name] for name in _KEPT), given, logs["advantages"])
        return [self._sample(*each) for each in zip(*columns, strict=True)]

    def _sample(self, *each: Any) -> dict[str, Any]:
        row, text, tokens, given, advantage = each
        where, task, _ = self._asked[row]
        rewards = {name: None if math.isnan(value) else value for name, value in given.items()}  # not applicable
        return {
            "step": self.state.global_step,
            "row": str(where),
            "prompt": list(task.messages),
            "completion": text,
            "tokens": tokens,
            "reference": task.reference,
            "rewards": rewards,
            "reward": self._total(list(rewards.values())),
            "advantage": advantage,
        }

    def _total(self, rewards: Sequence[float | None]) -> float | None:
        """The weighted sum of those that apply."""
        pairs = zip(rewards, self.reward_weights.tolist(), strict=True)
        known = [reward * weight for reward, weight in pairs if reward is not None]
        return sum(known) if known else None

    def greedy_reward(self, asked: Sequence[Asked]) -> float | None:
        """Mean reward of the likeliest completion of each prompt; every rank answers its share of them."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        mine = list(asked[rank::ranks])
        # Where the model is sharded all ranks have to sample as often: one with a prompt less repeats one.
        filler = asked[:1] if len(mine) < -(-len(asked) // ranks) else []
        completions = self._greedy([*mine, *filler])[: len(mine)]
        answers = _answers(mine, completions, self.processing_class, self.max_completion_length)
        answers = replace(answers, extras={"trainer_state": self.state})
        given = [reward(answers) for reward in self._rewards] if mine else []
        totals = gather_object([self._total(each) for each in zip(*given, strict=True)])
        known = [total for total in totals if total is not None]
        return sum(known) / len(known) if known else None

    def _greedy(self, asked: Sequence[Asked]) -> list[list[int]]:
        tokenizer, batch = self.processing_class, self.args.per_device_train_batch_size * 4
        found = []
        was_training = self.model.training
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model, torch.no_grad():
            model.eval()
            for start in range(0, len(asked), batch):
                chats = [list(each.task.messages) for each in asked[start : start + batch]]
                inputs = tokenizer.apply_chat_template(
                    chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
                ).to(self.accelerator.device)
                output = model.generate(**inputs, max_new_tokens=self.max_completion_length, do_sample=False)
                found += [self._until_end(ids) for ids in output[:, inputs["input_ids"].shape[1] :].tolist()]
        self.model.train(was_training)
        return found

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = {*self.eos_token_ids, self.processing_class.pad_token_id}
        return ids[: next((n + 1 for n, token in enumerate(ids) if token in ends), len(ids))]


def _is_new(record: logging.LogRecord) -> bool:
    """Whether TRL says what we do not: each completion without a reward would be told with all of its row."""
    return "All reward functions returned None" not in str(record.msg)


def as_dataset(asked: Sequence[Asked]) -> Dataset:
    """A `datasets.Dataset` of `prompt` (messages) and `row`, the place in `asked`, which is where the rest is kept."""

    def fetch(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {"prompt": [list(asked[row].task.messages) for row in batch["row"]], "row": batch["row"]}

    return Dataset.from_dict({"row": list(range(len(asked)))}).with_transform(fetch)


def first_answers(prompts: Prompts, limit: int, steps: int) -> Answers:
    """Answers to the first prompts, to try reward functions on before any is sampled, as in the first of `steps`."""
    picked = prompts.train[:_TRIED]
    texts = [each.task.reference or "An answer." for each in picked]
    ids = prompts.tokenizer(texts, add_special_tokens=False)["input_ids"]
    extras = {"trainer_state": TrainerState(max_steps=steps)}
    return replace(_answers(picked, ids, prompts.tokenizer, limit), extras=extras)


def _as_function(reward: Reward, asked: Sequence[Asked], tokenizer: Any, limit: int) -> Callable[..., list[Any]]:
    """The reward as TRL calls one; it gets the completions as they were sampled, and the rows that they answer."""

    def score(*, completion_ids: list[list[int]], row: list[int], **extras: Any) -> list[float | None]:
        answers = _answers([asked[each] for each in row], completion_ids, tokenizer, limit)
        kept = {name: extras[name] for name in ("trainer_state", "log_extra", "log_metric")}
        return reward(replace(answers, extras=kept))

    score.__name__ = reward.name
    return score


def _answers(asked: Sequence[Asked], ids: list[list[int]], tokenizer: Any, limit: int) -> Answers:
    return Answers(
        tasks=[each.task for each in asked],
        places=[each.where for each in asked],
        texts=_texts(tokenizer, ids),
        token_ids=ids,
        limit=limit,
    )


def _texts(tokenizer: Any, ids: list[list[int]]) -> list[str]:
    texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts

"""The reward of greedy completions for held-out prompts, before and after training."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel
from trl.models import unwrap_model_for_generation

from dimba.objectives.rewards import reward_label
from dimba.trainers.objectives.callbacks import Metrics
from dimba.trainers.objectives.grpo.group_trainer import GroupTrainer
from dimba.trainers.objectives.grpo.output import held_out_line
from dimba.trainers.objectives.grpo.prompts import Prompt, Prompts
from dimba.trainers.objectives.grpo.sampled import completions_of
from dimba.trainers.ranks import is_main_process


class HeldOutTest:
    """Prints and logs the mean reward on the held-out prompts; does nothing without any."""

    def __init__(self, trainer: GroupTrainer, prompts: Prompts, metrics: Metrics) -> None:
        self._trainer, self._prompts, self._metrics = trainer, prompts.held_out, metrics
        self._before: float | None = None
        self._label = reward_label(spec.logged for spec in prompts.rewards)

    def run(self, when: str) -> None:
        """Test the model as it is now; `when` is "before" or "after" training. All ranks must call it."""
        if not self._prompts:
            return
        reward = greedy_reward(self._trainer, self._prompts)
        if is_main_process():
            print(held_out_line(when, reward, self._before, len(self._prompts), label=self._label), flush=True)
            if reward is not None:
                self._metrics.write(self._trainer.state, {"eval_reward": reward})
        self._before = reward


def greedy_reward(trainer: GroupTrainer, prompts: Sequence[Prompt]) -> float | None:
    """The mean reward of the greedy completion of each prompt; None if no completion gets one.

    Every rank answers its share of the prompts.
    """
    rank, ranks = trainer.accelerator.process_index, trainer.accelerator.num_processes
    share = list(prompts[rank::ranks])
    # All ranks of a sharded model must sample equally often: one with a prompt less than others repeats one.
    filler = prompts[:1] if len(share) < -(-len(prompts) // ranks) else []
    token_ids = _complete(trainer, [*share, *filler])[: len(share)]
    totals = gather_object(_total_rewards(trainer, share, token_ids))
    known = [total for total in totals if total is not None]
    return sum(known) / len(known) if known else None


def _total_rewards(trainer: GroupTrainer, prompts: list[Prompt], token_ids: list[list[int]]) -> list[float | None]:
    if not prompts:
        return []
    completions = completions_of(prompts, token_ids, trainer.processing_class, trainer.max_completion_length)
    completions = replace(completions, extras={"trainer_state": trainer.state})
    rewards = [reward(completions) for reward in trainer.rewards]
    return [trainer.total_reward(each) for each in zip(*rewards, strict=True)]


def _complete(trainer: GroupTrainer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The token ids of each prompt's greedy completion, up to its end token."""
    batch = trainer.args.per_device_train_batch_size * 4  # nothing is kept for a backward pass
    token_ids = list[list[int]]()
    was_training = trainer.model.training
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model, torch.no_grad():
        model.eval()
        for start in range(0, len(prompts), batch):
            token_ids += _complete_batch(trainer, model, prompts[start : start + batch])
    trainer.model.train(was_training)
    return token_ids


def _complete_batch(trainer: GroupTrainer, model: PreTrainedModel, prompts: Sequence[Prompt]) -> list[list[int]]:
    ends = {*trainer.eos_token_ids, trainer.processing_class.pad_token_id}
    return [_until_end(ids, ends) for ids in trainer.greedy(model, [list(each.ids) for each in prompts])]


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    return ids[: next((n + 1 for n, token in enumerate(ids) if token in ends), len(ids))]

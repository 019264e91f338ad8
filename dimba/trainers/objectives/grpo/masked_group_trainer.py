"""diffu-GRPO: the loss of GRPO with log-probabilities that one forward pass estimates.

Zhao et al., d1: Scaling Reasoning in Diffusion Large Language Models via Reinforcement Learning, arXiv:2504.12216,
section 3: all tokens of a completion are masked, and each of the prompt with a small probability. The logits at a token
then estimate its log-probability given the prompt, as if the tokens of a completion did not depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel
from trl.models import unwrap_model_for_generation

from dimba.trainers.models.masked_diffusion.answers import Answers
from dimba.trainers.models.masked_diffusion.forward import heads_of, inputs_of, mask_id
from dimba.trainers.models.masked_diffusion.noise import drawn_prompts
from dimba.trainers.models.masked_diffusion.reference import prepare_reference
from dimba.trainers.models.masked_diffusion.sampler import Unmasking, sample
from dimba.trainers.models.masked_diffusion.scoring import add_scoring
from dimba.trainers.models.saved_model import evaluating
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.objectives.grpo.group_trainer import GroupTrainer
from dimba.trainers.objectives.grpo.sampling.sampler import Ids


class MaskedGroupTrainer(GroupTrainer):
    """Samples as `how` says, and masks a share `p_mask_prompt` of the prompts' tokens where completions are scored."""

    def __init__(self, *, how: Unmasking, p_mask_prompt: float, **arguments: Any) -> None:
        args = arguments["args"]
        beta, args.beta = args.beta, 0.0  # TRL would load a reference by a class of causal models
        super().__init__(**arguments)
        self.beta = args.beta = beta
        self._how, self._p_mask_prompt = how, p_mask_prompt
        self.scoring = add_scoring(self._base)

    @property
    def _base(self) -> PreTrainedModel:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def compare_with(self, reference: PreTrainedModel) -> None:
        """Take a frozen model as the reference of `beta`; without one it is the base, the adapter switched off."""
        self.ref_model = prepare_reference(reference, self.accelerator)

    def _sample_by_model(self, prompt_ids: Ids, *_: Any, **__: Any) -> tuple[Ids, None]:
        rows = len(prompt_ids)
        first = (self.state.global_step * self.accelerator.num_processes + self.accelerator.process_index) * rows
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model, evaluating(model):
            return self._sampled(model, prompt_ids, self._how, range(first, first + rows)), None

    def greedy(self, model: PreTrainedModel, prompt_ids: Ids) -> Ids:
        """The tokens of each prompt's completion by the surest tokens, with its end token."""
        return self._sampled(model, prompt_ids, replace(self._how, temperature=0.0), range(len(prompt_ids)))

    def _sampled(self, model: PreTrainedModel, prompts: Ids, how: Unmasking, numbers: Sequence[int]) -> Ids:
        """As many at once as a batch of training has; the draws of a row depend on its number alone."""
        size, found = self.args.per_device_train_batch_size, Ids()
        for start in range(0, len(prompts), size):
            part = slice(start, start + size)
            sampled = sample(
                model,
                prompts[part],
                how,
                ends=self.eos_token_ids,
                pad_id=self.processing_class.pad_token_id,
                numbers=numbers[part],
                fills_all=is_sharded(),  # its ranks must call it equally often: none may end before the others
            )
            found += sampled.tokens
        return found

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """(log-probabilities, entropies, None), both [rows, tokens of the longest completion] and 0 behind the others.

        The rows are prompts, padded on the left, with completions of `logits_to_keep` tokens, padded on the right.
        """
        size = batch_size or len(input_ids)
        parts = [
            self._estimate(model, ids, attended, logits_to_keep)
            for ids, attended in zip(input_ids.split(size), attention_mask.split(size), strict=True)
        ]
        logps, entropies = (torch.cat(each) for each in zip(*parts, strict=True))
        return logps, entropies if compute_entropy else None, None

    def _estimate(
        self, model: torch.nn.Module, ids: torch.Tensor, attended: torch.Tensor, completion: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scored = attended[:, -completion:].bool()
        answers = _from_the_left(ids, attended, completion)
        hidden = self._masked_prompts(answers)
        answers = self._with_block(answers)
        hidden = answers.trained | pad(hidden, (0, answers.ids.shape[1] - hidden.shape[1]))
        noised = answers.ids.masked_fill(hidden, mask_id(self._base))
        inputs = inputs_of(self._base, noised, answers.attended, torch.ones(len(ids), device=ids.device))
        inputs |= {"scored": heads_of(self._base, answers.trained), "targets": answers.ids[answers.trained]}
        with self.accelerator.autocast():
            scores = model(**inputs, temperature=self.temperature).float()
        return _in_place(scored, scores[:, 0]), _in_place(scored, scores[:, 1].detach())

    def _masked_prompts(self, answers: Answers) -> torch.Tensor:
        where = self.args.seed, self.state.global_step
        return drawn_prompts(*where, answers.ids, answers.attended, self._p_mask_prompt) & ~answers.trained

    def _with_block(self, answers: Answers) -> Answers:
        """The rows with masked tokens up to the end of a completion's last block, as the sampler has them."""
        lengths = answers.trained.sum(dim=1).tolist()
        blocks = (-(-length // self._how.block) * self._how.block for length in lengths)
        tails = [min(block, self._how.new_tokens) - length for block, length in zip(blocks, lengths, strict=True)]
        most = answers.ids.shape[1] + max(tails)
        return answers.with_tails(tails, most, mask_id(self._base)) if any(tails) else answers


def _from_the_left(ids: torch.Tensor, attended: torch.Tensor, completion: int) -> Answers:
    """Rows [padding, prompt, completion, padding] without the padding in front."""
    padding = attended.int().argmax(dim=1, keepdim=True)
    places = torch.arange(ids.shape[1], device=ids.device) + padding
    is_there = places < ids.shape[1]
    places = places.clamp(max=ids.shape[1] - 1)
    moved = attended.gather(1, places) * is_there
    trained = moved.bool() & (places >= ids.shape[1] - completion)
    return Answers(ids.gather(1, places), moved, trained)


def _in_place(scored: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return values.new_zeros(scored.shape).masked_scatter(scored, values)

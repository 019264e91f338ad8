"""GRPO: sample answers in groups, and make those with a higher reward more likely."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import Location
from dimba.dataset.prompt_examples import first_prompt, recognise_prompt, survey_prompts
from dimba.dataset.samples import Sample
from dimba.objectives.batches import GroupBatches
from dimba.objectives.budgets import by_method
from dimba.objectives.objective import Columns, MemoryTerms, Objective, Rates, Start, TrainerArgs
from dimba.objectives.rewards import VERIFIERS
from dimba.objectives.samplers import Sampler, sampler_of
from dimba.options import diffusion_table, grpo_table, optimiser_table, table
from dimba.options.kinds import OneOf
from dimba.options.param import option
from dimba.options.trainer import TrainerOptions

# A policy that strays far from the base learns to please a reward model instead of being right.
BETA_WITH_REWARD_MODEL = 0.04
_REWARDS = f"auto decides by the rows; {', '.join(VERIFIERS)}, preference, similarity; or path/to/file.py:function"


@dataclass(frozen=True, kw_only=True)
class GrpoOptions(TrainerOptions):
    """Options of `finetune_grpo.py`."""

    output_dir: str = option(table.OUTPUT_DIR)
    epochs: float = option(table.EPOCHS, default=1.0)
    learning_rate: float = option(table.LEARNING_RATE, help="default: 1e-05 for adapters, 1e-06 for full")
    # Published recipes hold the rate; with a falling one the last prompts would count less than the first.
    scheduler: str = option(optimiser_table.SCHEDULER, default="constant")
    batch_size: int = option(table.BATCH_SIZE, help="completions per GPU and forward pass")
    max_length: int = option(table.MAX_LENGTH, help="tokens of prompt and completion at most")
    num_generations: int | None = option(grpo_table.NUM_GENERATIONS)
    max_completion_length: int = option(grpo_table.MAX_COMPLETION_LENGTH)
    temperature: float = option(grpo_table.TEMPERATURE)
    beta: float | None = option(
        table.BETA,
        help="weight of the divergence from the base model "
        f"(default: 0, with a reward model {BETA_WITH_REWARD_MODEL:g})",
    )
    loss_type: str = option(grpo_table.LOSS_TYPE)
    mask_token: str | None = option(diffusion_table.MASK_TOKEN)
    block_length: int = option(diffusion_table.BLOCK_LENGTH)
    diffusion_steps: int | None = option(diffusion_table.DIFFUSION_STEPS)
    guidance: float = option(diffusion_table.GUIDANCE)
    p_mask_prompt: float = option(diffusion_table.P_MASK_PROMPT)
    sampler: str = option(grpo_table.SAMPLER)
    sampler_gpus: int = option(grpo_table.SAMPLER_GPUS)
    use_vllm: bool = option(grpo_table.USE_VLLM)
    sample_steps: int = option(grpo_table.SAMPLE_STEPS)
    reward: tuple[str, ...] = option(grpo_table.REWARD, help=_REWARDS)
    reward_weights: tuple[float, ...] | None = option(grpo_table.REWARD_WEIGHTS)
    reward_model: str | None = option(grpo_table.REWARD_MODEL)
    reward_epochs: float = option(grpo_table.REWARD_EPOCHS)
    reward_learning_rate: float = option(grpo_table.REWARD_LEARNING_RATE)
    allow_weak_reward: bool = option(grpo_table.ALLOW_WEAK_REWARD)
    on_long: str | None = option(
        table.ON_LONG,
        kind=OneOf(("drop",)),
        help="drop: skip prompts that leave no room for a completion (default: refuse)",
    )

    @property
    def chosen_sampler(self) -> Sampler:
        """The sampler that the flags ask for."""
        names = {grpo_table.USE_VLLM.name: self.use_vllm, grpo_table.SAMPLER_GPUS.name: self.sampler_gpus}
        return sampler_of({grpo_table.SAMPLER.name: self.sampler, **names})

    @property
    def model_checkpoints(self) -> tuple[str, ...]:
        """The base and the reward model, if one is given."""
        return (self.base_checkpoint, *([self.reward_model] if self.reward_model else []))


class _Prompts:
    """Rows with a prompt, and a reference answer or a pair to score completions by."""

    survey = staticmethod(survey_prompts)

    def format_name(self, row: Mapping[str, Any], columns: Columns, where: Location) -> str:
        """The format's name; raises BadInput for an unknown one."""
        return recognise_prompt(row, columns, where).name

    def first_sample(self, row: Mapping[str, Any], columns: Columns, where: Location) -> Sample:
        """The prompt of a row; raises BadInput for an unusable one."""
        return first_prompt(row, columns, where)


def _has_reward_model(args: TrainerArgs, open_pairs: bool) -> bool:
    value = args.get(grpo_table.REWARD.name, grpo_table.REWARD.default)
    names = value if isinstance(value, list) else [value]
    trains_one = "preference" in names or ("auto" in names and open_pairs)
    return trains_one or grpo_table.REWARD_MODEL.name in args


def _memory(args: TrainerArgs, open_pairs: bool) -> MemoryTerms:
    reward_model = _has_reward_model(args, open_pairs)
    sampler = sampler_of(args)
    beta, length = args.get(table.BETA.name), args.get(grpo_table.MAX_COMPLETION_LENGTH.name)
    return MemoryTerms(
        completion=length if type(length) is int and length > 0 else int(grpo_table.MAX_COMPLETION_LENGTH.default),
        samples=not sampler.is_vllm,
        vllm=sampler.shares_gpus,
        masked=True,
        reference=bool(beta) if isinstance(beta, int | float) else reward_model,
        reward_model=reward_model,
    )


def _image_extra(args: TrainerArgs) -> str:
    return "-vllm" if sampler_of(args).is_vllm else ""


GRPO = Objective(
    name="grpo",
    summary="GRPO: sample answers in groups and make those with a higher reward more likely.",
    choice="improve answers that a reward can score; on top of an SFT model",
    advice="Preference pairs alone are usually better served by DPO; GRPO wants a reward.",
    options=GrpoOptions,
    rates=Rates(adapter=1e-5, full=1e-6),  # published recipes are twenty times below SFT's
    starts={
        4: Start(accumulation=by_method("32/16/16"), max_steps=500),
        8: Start(accumulation=by_method("16/8/16"), max_steps=500),
        16: Start(accumulation=by_method("8/4/8"), max_steps=800),
        24: Start(accumulation=by_method("4/2/4"), max_steps=1000),
        40: Start(accumulation=by_method("2/1/2"), max_steps=1000),
    },
    batches=GroupBatches(),
    rows=_Prompts(),
    memory=_memory,
    wants="preferences",
    preset="feedback-collection",
    image_extra=_image_extra,
    sampler=sampler_of,
)

"""The rewards of a job: those that it names, or those that fit its rows."""

from collections.abc import Iterator, Sequence

from dimba.common.errors import BadInput
from dimba.dataset.prompt_examples import PromptFormat
from dimba.objectives.grpo import GrpoOptions
from dimba.objectives.rewards import REWARDS, RewardSpec, parse_rewards
from dimba.trainers.models.families import family_at
from dimba.trainers.objectives.grpo.rows import PromptRows
from dimba.trainers.rewards import choose, needs_reference


def choose_rewards(options: GrpoOptions, rows: PromptRows) -> tuple[tuple[RewardSpec, ...], str]:
    """(rewards, reason); raises BadInput if a reward or its weight does not fit the rows or the other options."""
    if is_auto(options):
        choice = choose(rows.form, [example for _, example in rows.examples])
        specs, reason = choice.specs, choice.reason
    else:
        specs = parse_rewards(options.reward)
        reason = ", ".join(map(_described, specs))
    _check_options(options, specs, reason)
    for spec in specs:
        _check_columns(spec, rows.form)
    return specs, reason


def is_auto(options: GrpoOptions) -> bool:
    """Whether the rows decide which reward is used."""
    return options.reward == ("auto",)


def has_reward_model(specs: Sequence[RewardSpec]) -> bool:
    """Whether one of the rewards is the score of a reward model."""
    return any(spec.name == "preference" for spec in specs)


def constant_rewards(specs: Sequence[RewardSpec], options: GrpoOptions) -> Iterator[str]:
    """A line for each reward that is the same for every completion."""
    limit = options.max_completion_length
    for spec in specs:
        if spec.name == "length" and spec.parameter and int(spec.parameter) >= limit:
            yield f"reward {spec} is always 0: no completion has more than {limit:,} tokens"


def _described(spec: RewardSpec) -> str:
    return f"{spec} ({REWARDS[spec.name]})" if spec.name == "similarity" else str(spec)


def _check_options(options: GrpoOptions, specs: Sequence[RewardSpec], reason: str) -> None:
    if options.reward_weights and len(options.reward_weights) != len(specs):
        counts = f"{len(options.reward_weights)} weights for {len(specs)} rewards ({reason})"
        raise BadInput(counts, "give one weight for each reward", key="--reward-weights")
    if options.reward_model and not has_reward_model(specs):
        cause = f"none of the rewards uses a model ({reason})"
        raise BadInput(cause, "add `--reward preference`, or leave out --reward-model", key="--reward-model")
    refusal = family_at(options.base_checkpoint).reward_model
    if refusal and has_reward_model(specs) and not options.reward_model:
        raise BadInput(f"{options.base_checkpoint} {refusal.problem} ({reason})", refusal.hint, key="--reward")


def _check_columns(spec: RewardSpec, form: PromptFormat) -> None:
    if spec.name == "auto":
        raise BadInput("--reward auto cannot be combined with other rewards", "leave out `auto`, or the other rewards")
    if needs_reference(spec) and form.reference is None:
        problem = f"--reward {spec} compares with the right answer, and rows of `{form.name}` have none"
        raise BadInput(problem, "name its column with `dataset.columns: {answer: …}`, or use another reward")
    if spec.name in ("preference", "similarity") and not form.pairs:
        problem = f"--reward {spec.name} needs pairs, and rows of `{form.name}` have no `chosen` and `rejected`"
        hint = "name their columns with `dataset.columns: {chosen: …, rejected: …}`, or use another reward"
        raise BadInput(problem, hint)

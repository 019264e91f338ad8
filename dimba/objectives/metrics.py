"""The metrics that runs of an objective are compared in, and which direction is the better one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dimba.objectives.objective import Objective
from dimba.options import diffusion_table, dpo_table, grpo_table, table, template_table
from dimba.options.param import Param
from dimba.options.tracking_table import SAVE_BEST


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A key of metrics.jsonl."""

    key: str
    label: str
    is_reward: bool = False
    on_held_out: bool = False
    during_training: bool = True  # it has values before the end

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value is the better one: of losses, not of rewards."""
        return not self.is_reward

    def rank(self, value: float) -> float:
        """The value, negated where higher is better: the lowest rank is the best."""
        return value if self.lower_is_better else -value


METRICS: Mapping[str, Metric] = {
    each.key: each
    for each in (
        Metric(key="eval_loss", label="validation loss", on_held_out=True),
        Metric(
            key="eval_reward",
            label="held-out reward",
            is_reward=True,
            on_held_out=True,
            during_training=False,
        ),
        Metric(key="loss", label="training loss"),
        Metric(key="reward", label="reward", is_reward=True),
    )
}


# They decide on which rows, and by which measure, a run is evaluated; so does every key of `dataset` but the weights.
_MEASURE = (
    *(table.BASE, table.BASE_REVISION, table.MAX_LENGTH, table.TRAIN_ON, table.ON_LONG, table.SKIP_BAD_ROWS),
    *(table.VALIDATION_SPLIT, grpo_table.REWARD, grpo_table.REWARD_WEIGHTS),
    *(diffusion_table.MASK_TOKEN, diffusion_table.END_TAIL, diffusion_table.BLOCK_LENGTH),
    *(diffusion_table.DIFFUSION_STEPS, diffusion_table.GUIDANCE),
    *(grpo_table.REWARD_MODEL, grpo_table.REWARD_EPOCHS, grpo_table.REWARD_LEARNING_RATE, grpo_table.TEMPERATURE),
    *(template_table.CHAT_TEMPLATE_KWARGS, template_table.TEMPLATE_DATE, template_table.CONTROL_TOKENS),
)
_OF_LOSSES = (table.BETA, dpo_table.PAIR_LOSS)  # a reward is the same whatever the loss


def _keys(params: Iterable[Param]) -> frozenset[str]:
    return frozenset(each.key or f"trainer_args.{each.name}" for each in params)


def measured_otherwise(metric: Metric, keys: Iterable[str]) -> list[str]:
    """The keys of a spec of which another value gives a run other held-out rows or another measure."""
    further = {table.SEED.key} if metric.on_held_out else set()  # it draws the rows that are held out
    known = _keys(_MEASURE if metric.is_reward else (*_MEASURE, *_OF_LOSSES)) | further
    return [key for key in keys if _of_data(key) or key in known or any(each.startswith(f"{key}.") for each in known)]


def _of_data(key: str) -> bool:
    return key.startswith("dataset") and not key.endswith(".weight")


def comparison_warning(metric: Metric, keys: Iterable[str]) -> str:
    """Why the values of runs with other values of these keys do not compare; empty if they do."""
    found = measured_otherwise(metric, keys)
    return (
        f"warning: runs with another {' or '.join(found)} are measured on other rows or in another way, so their "
        f"{metric.label} does not compare: `dimba eval RUN… --file ROWS` measures all of them alike"
        if found
        else ""
    )


def metric_of(objective: Objective[Any], trainer_args: Mapping[str, Any]) -> Metric:
    """The metric that says which of several runs is the best: on held-out rows where there are any."""
    scores = objective.takes(grpo_table.NUM_GENERATIONS)
    if trainer_args.get(table.VALIDATION_SPLIT.name) in (None, False):
        return METRICS["reward" if scores else "loss"]
    return METRICS["eval_loss" if objective.takes(SAVE_BEST) else "eval_reward" if scores else "loss"]

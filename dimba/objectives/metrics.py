"""The metrics that runs of an objective are compared in, and which direction is the better one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimba.objectives.objective import Objective
from dimba.options import grpo_table, table
from dimba.options.tracking_table import SAVE_BEST


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A key of metrics.jsonl."""

    key: str
    label: str
    lower_is_better: bool
    on_held_out: bool = False
    during_training: bool = True  # it has values before the end

    def rank(self, value: float) -> float:
        """The value, negated where higher is better: the lowest rank is the best."""
        return value if self.lower_is_better else -value


METRICS: Mapping[str, Metric] = {
    each.key: each
    for each in (
        Metric(key="eval_loss", label="validation loss", lower_is_better=True, on_held_out=True),
        Metric(
            key="eval_reward",
            label="held-out reward",
            lower_is_better=False,
            on_held_out=True,
            during_training=False,
        ),
        Metric(key="loss", label="training loss", lower_is_better=True),
        Metric(key="reward", label="reward", lower_is_better=False),
    )
}


def metric_of(objective: Objective[Any], trainer_args: Mapping[str, Any]) -> Metric:
    """The metric that says which of several runs is the best: on held-out rows where there are any."""
    scores = objective.takes(grpo_table.NUM_GENERATIONS)
    if trainer_args.get(table.VALIDATION_SPLIT.name) in (None, False):
        return METRICS["reward" if scores else "loss"]
    return METRICS["eval_loss" if objective.takes(SAVE_BEST) else "eval_reward" if scores else "loss"]

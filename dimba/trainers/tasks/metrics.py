"""Which metric of a task its documents are compared in, and the value of a document."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.api.registry import AGGREGATION_REGISTRY

from dimba.common.errors import BadInput

_LN2 = math.log(2)


def _number(value: Any) -> float:
    return float(value)


def _nats(value: Any) -> float:
    return -float(value)


def _nats_each(value: Any) -> float:
    """Of a text, per word or byte."""
    likelihood, count = value
    return -float(likelihood) / count


def _bits_each(value: Any) -> float:
    return _nats_each(value) / _LN2


def _brier(value: Any) -> float:
    right, chances = value
    return float(sum((float(each) - (at == right)) ** 2 for at, each in enumerate(chances)))


# (name of lm-eval's aggregation, what a document's value is, its label, whether less is better)
_VALUES: tuple[tuple[str, Callable[[Any], float], str, bool], ...] = (
    ("mean", _number, "{}", False),
    ("nanmean", _number, "{}", False),
    ("perplexity", _nats, "log {}", True),
    ("weighted_perplexity", _nats_each, "log {}", True),
    ("bits_per_byte", _bits_each, "{}", True),
    ("brier_score", _brier, "{}", True),
)


@dataclass(frozen=True)
class Metric:
    """A metric by lm-eval's name, and the value of a document; None if documents have none."""

    name: str
    label: str
    higher_is_better: bool
    value: Callable[[Any], float] | None


def choose_metric(task: Any, name: str) -> Metric:
    """The first metric of a task with a value per document, else the first one; raises BadInput without a direction."""
    aggregations = dict(task.aggregation())
    if not aggregations:
        raise BadInput(f"the task `{name}` has no metric", "give it a `metric_list`, or name another task")
    for metric, aggregation in aggregations.items():
        for known, value, label, is_loss in _VALUES:
            if aggregation is AGGREGATION_REGISTRY.get(known):
                better = not is_loss and _direction(task, name, metric)
                return Metric(metric, label.format(metric), better, value)
    metric = next(iter(aggregations))
    return Metric(metric, metric, _direction(task, name, metric), None)


def _direction(task: Any, name: str, metric: str) -> bool:
    directions: Mapping[str, Any] = task.higher_is_better() or {}
    if not isinstance(directions.get(metric), bool):
        problem = f"the task `{name}` does not say whether more of its metric `{metric}` is better"
        raise BadInput(problem, "write `higher_is_better: true` or `false` below the metric in its file")
    return bool(directions[metric])

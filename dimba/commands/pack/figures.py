"""The figures of a run for its recipe: losses with the spread of their last steps, rewards, verdict, evaluation."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean, pstdev
from typing import Any

from dimba.commands.report.gather import RunFacts
from dimba.records import RunRecord

_LAST = ("loss", "reward")  # of training steps, which vary
_NEWEST = ("eval_loss", "eval_reward", "accuracy", "margin")
_SHARE, _LEAST = 0.1, 5  # of the steps, for a mean and its spread
_EVAL = ("model", "against", "difference", "interval", "rows")


def figures_of(run: RunFacts) -> dict[str, Any]:
    """The figures of a run that has ended."""
    found = {name: spread for name in _LAST if (spread := _spread(run.metrics.series(name).finite))}
    newest = {name: value for name in _NEWEST if (value := run.metrics.last(name)) is not None}
    steps = {"steps": int(run.metrics.last_step)} if run.metrics.last_step else {}  # fewer than planned: early_stop
    learned = {} if run.record.learned is None else {"learned": run.record.learned}
    return {**steps, **found, **newest, **learned, **_evaluation(run.evaluation)}


def _spread(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The last value of a metric; the mean and the standard deviation of the last tenth of its steps."""
    if not points:
        return {}
    values = [value for _step, value in points]
    last = values[-max(_LEAST, round(len(values) * _SHARE)) :]
    return {"last": values[-1], "mean": fmean(last), "deviation": pstdev(last), "steps": len(last)}


def _evaluation(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `dimba eval` found, without places and rows."""
    measures = found.get("measures")
    if not isinstance(measures, Mapping):
        return {}
    kept = {
        str(name): {key: each[key] for key in _EVAL if key in each}
        for name, each in measures.items()
        if isinstance(each, Mapping)
    }
    return {"eval": {"better": found.get("better"), "by": found.get("by"), **kept}}


def seconds_of(record: RunRecord) -> float | None:
    """The time that the attempts took."""
    try:
        spans = [
            datetime.fromisoformat(str(each.ended)) - datetime.fromisoformat(str(each.started))
            for each in record.attempts
        ]
    except ValueError:
        return None
    return sum(span.total_seconds() for span in spans)

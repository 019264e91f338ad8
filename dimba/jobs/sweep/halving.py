"""Successive halving: which runs of a sweep are among the worst at an evaluation point. Pure."""

from collections.abc import Mapping, Sequence

from dimba.objectives.metrics import Metric


def rung_of(evaluations: int) -> int:
    """The evaluation at which a run of so many is compared: the newest of the 1st, 2nd, 4th, 8th …; 0 before."""
    return 1 << (evaluations.bit_length() - 1) if evaluations else 0


def worst(histories: Mapping[str, Sequence[float | None]], metric: Metric) -> frozenset[str]:
    """The runs whose value at their newest rung is in the worse half of all runs that reached it.

    `histories` has the value of each evaluation of each run, in order; None is one that is no number. The better half
    is rounded up and keeps equal values, so the best run of a rung is never among them.
    """
    return frozenset(run for run in histories if _is_worse(run, histories, metric))


def _is_worse(run: str, histories: Mapping[str, Sequence[float | None]], metric: Metric) -> bool:
    rung = rung_of(len(histories[run]))
    if not rung:
        return False
    reached = sorted(_rank(values[rung - 1], metric) for values in histories.values() if len(values) >= rung)
    return _rank(histories[run][rung - 1], metric) > reached[(len(reached) + 1) // 2 - 1]


def _rank(value: float | None, metric: Metric) -> float:
    return float("inf") if value is None else metric.rank(value)

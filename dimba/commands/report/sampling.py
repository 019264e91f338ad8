"""Fewer points of a long curve, its extremes kept."""

from dimba.jobs.metrics import Series

MOST = 2000  # points of a curve that are drawn
_FEWEST, _OF_ALL = 500, 4000  # points of each of many curves, and of all runs' curves of a metric


def points_of(runs: int) -> int:
    """The points of a curve where so many runs have one."""
    return max(_FEWEST, min(MOST, _OF_ALL // max(runs, 1)))


def drawn(series: Series, most: int = MOST) -> Series:
    """The series, if it is long the lowest and the highest value of each of `most` / 2 stretches.

    A gap (a value that is not a number), the first point and the last stay too.
    """
    count = len(series.steps)
    if count <= most:
        return series
    kept = {0, count - 1}
    stretches = most // 2
    for number in range(stretches):
        kept |= _extremes(series, range(number * count // stretches, (number + 1) * count // stretches))
    order = sorted(kept)
    return Series(tuple(series.steps[n] for n in order), tuple(series.values[n] for n in order))


def _extremes(series: Series, stretch: range) -> set[int]:
    finite = [(value, n) for n in stretch if (value := series.values[n]) is not None]
    gap = next((n for n in stretch if series.values[n] is None), None)
    kept = {min(finite)[1], max(finite)[1]} if finite else set()
    return kept if gap is None else kept | {gap}


def stretch_length(count: int, most: int = MOST) -> int:
    """The number of steps of which two are drawn; 0 if all are."""
    return 0 if count <= most else -(-count // (most // 2))

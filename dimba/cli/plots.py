"""Plots of a curve in block characters, or in ASCII where the terminal has no others."""

from collections.abc import Sequence
from itertools import pairwise

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:|"


def plot(values: Sequence[float], width: int, height: int, *, blocks: bool) -> list[str]:
    """Lines of columns, the highest value at the top; many values share a column, which is their mean."""
    marks = _BLOCKS if blocks else _ASCII
    steps = len(marks) - 1
    columns = _means(values, width)
    low, high = min(columns), max(columns)
    reach = (high - low) or 1.0
    # The lowest column has one step too, so that it is seen.
    levels = [1 + round((each - low) / reach * (height * steps - 1)) for each in columns]
    rows = []
    for row in reversed(range(height)):
        rows.append("".join(marks[max(0, min(steps, level - row * steps))] for level in levels))
    return rows


def _means(values: Sequence[float], width: int) -> list[float]:
    count = min(width, len(values))
    bounds = [n * len(values) // count for n in range(count + 1)]
    parts = [values[start:end] for start, end in pairwise(bounds)]
    return [sum(part) / len(part) for part in parts]

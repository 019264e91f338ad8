"""General rows that come with the project: what a model has lost by its training.

guard.jsonl was written for this project and has its licence, Apache-2.0: facts, arithmetic, short instructions and
refusals.
"""

from pathlib import Path

from dimba.commands.eval.result import Measure
from dimba.commands.eval.rows import EvalRow, rows_of_file

NAME = "guard"
_FILE = Path(__file__).with_name("guard.jsonl")


def guard_rows() -> list[EvalRow]:
    """The general rows."""
    return rows_of_file(_FILE, {})


def guard_note(name: str, measure: Measure, loss: str) -> str:
    """What the general rows show of a model, in one line; `loss` is what they are scored by."""
    low, high = measure.interval
    change = f"by {abs(measure.difference):.3g} (95 % interval {low:+.3g} to {high:+.3g})"
    if measure.comparison.better is False:
        return f"{name} has lost on general rows: their {loss} rose {change}"
    if measure.comparison.better:
        return f"{name} has lost nothing on general rows: their {loss} fell {change}"
    return f"the {measure.comparison.rows} general rows do not tell whether {name} has lost anything: {change}"

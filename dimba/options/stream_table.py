"""The parameter of streamed data, and what it cannot be combined with."""

from dimba.options import table
from dimba.options.kinds import Switch
from dimba.options.param import Param

SAMPLE_ROWS = 1000  # read before training
STREAM = Param(
    group="base and data",
    key="dataset.stream",
    flags=("--stream",),
    aliases=("--stream", "--streaming"),
    kind=Switch(),
    default=False,
    help="read the rows during training instead of tokenising all of them first; needs a number of steps",
    question="Stream",
)
NO_LISTS = "cannot be streamed: its weights count passes through rows, and a stream does not end"
ONE_SET = "stream one data set: a folder or a pattern of files is one"

Refusal = tuple[str, str, str]  # (key, problem, hint)


def stream_refusal(*, max_steps: int | None, held_out: float | str | None, on_long: str | None) -> Refusal | None:
    """Why a job cannot stream its data: the key or flag, the problem and the hint; None if it can."""
    if max_steps is None:
        return table.MAX_STEPS.key, "a stream does not end by itself", "set `training.max_steps`, for example to 1000"
    if isinstance(held_out, float) and held_out < 1:
        problem = f"{held_out:g} of a stream is unknown: the number of its rows is"
        return table.VALIDATION_SPLIT.flag, problem, "hold out a number of rows, its first: 500"
    if on_long == "split":
        return table.ON_LONG.flag, "a streamed row is one example, and cannot be split", "use truncate or drop"
    return None

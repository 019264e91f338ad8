"""How many GPUs share each row: one, unless one row does not fit a GPU in any other way. Pure."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from dimba.common.errors import BadInput
from dimba.objectives.budgets import FILLED
from dimba.options.checkpointing import ALL, OFFLOADED
from dimba.options.speed_table import SEQUENCE_PARALLEL
from dimba.plan.fitting import Fit, card_room
from dimba.plan.model import MemoryEstimate

_GIB = 1 << 30
_KEY = SEQUENCE_PARALLEL.key
_HINT = f"leave out `{_KEY}`, or set it to 1"


@dataclass(frozen=True)
class RowSharing:
    """The number of GPUs that share each row, with the reason; empty for one GPU a row."""

    ranks: int = 1
    why: str = ""


def choose_sharing(fit: Fit, nodes: int, flags: Collection[str]) -> RowSharing:
    """As the spec says; `auto`: the fewest GPUs with which one row fits, if it fits no single one.

    `fit` is sharded or not already, and `flags` are the trainer's: one in an older image may lack this one.

    Raises:
        BadInput: rows are to be divided in a job that cannot.
    """
    asked, per_node = fit.job.accelerate.sequence_parallel, fit.processes // nodes
    if asked == 1:
        return RowSharing()
    if isinstance(asked, int):
        for problem, hint in _problems(fit, asked, per_node):
            raise BadInput(f"rows cannot be divided among {asked} GPUs: {problem}", hint, key=_KEY)
        return RowSharing(asked, f"as asked, {asked} GPUs share each row")
    may_divide = SEQUENCE_PARALLEL.flag in flags and fit.checkpoint.family.divides
    return _least(fit, per_node) if may_divide else RowSharing()


def _least(fit: Fit, per_node: int) -> RowSharing:
    """The smallest number of GPUs whose parts of one row fit, where a complete row does not."""
    complete, room = _of_one_row(fit), card_room(fit)
    if complete is None or complete.lower_bound or room is None or complete.total <= room:
        return RowSharing()
    for ranks in (each for each in range(2, per_node + 1) if not list(_problems(fit, each, per_node))):
        part = fit.of(fit.job.divided(ranks)).least()
        if part and part.total <= FILLED * room:
            row = f"one row needs {complete.total / _GIB:.1f} GiB, and a GPU has {room / _GIB:.1f}"
            return RowSharing(ranks, f"{ranks} GPUs share each row: {row}")
    return RowSharing()


def _of_one_row(fit: Fit) -> MemoryEstimate | None:
    """The smallest estimate of a batch of one row; a sharded model keeps the inputs of its layers on the GPU."""
    ways = (ALL,) if fit.shards > 1 else (ALL, OFFLOADED)
    found = [replace(fit, checkpointing=each).least() for each in ways]
    return min((each for each in found if each), key=lambda each: each.total, default=None)


def _problems(fit: Fit, ranks: int, per_node: int) -> Iterator[tuple[str, str]]:
    """(the reason why so many GPUs cannot share a row, a hint)."""
    job, shape = fit.job, fit.checkpoint.shape
    if not fit.ours:
        yield "a custom trainer does not do it", _HINT
    if not job.objective.takes(SEQUENCE_PARALLEL):
        yield f"`mode: {job.mode}` needs complete rows", _HINT
    if not fit.gpus or fit.processes == 1:
        has = "one" if fit.gpus else "none"
        yield f"the job has {has}", f"{_HINT}; or more in `resources.gpus`"
    elif per_node % ranks:
        yield f"{per_node} on a machine are no multiple", f"set `{_KEY}` to a divisor of {per_node}"
    if shape and (shape.heads % ranks or not _can_share(shape.kv_heads, ranks)):
        common = math.gcd(shape.heads, per_node)
        yield f"the model has {shape.heads} heads, {shape.kv_heads} of keys", f"set `{_KEY}` to {common}, or to 1"


def _can_share(heads: int, ranks: int) -> bool:
    """Whether heads of keys can be divided among ranks, or repeated for them."""
    return heads % ranks == 0 or ranks % heads == 0

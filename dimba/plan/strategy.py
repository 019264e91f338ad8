"""How the processes of a job share a model."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from dimba.common.errors import BadInput, DimbaError
from dimba.objectives.objective import Objective
from dimba.options.optimiser_table import NOT_SHARDED_HINT, OPTIMIZER, SHARDED
from dimba.plan.divided_rows import RowSharing, choose_sharing
from dimba.plan.fitting import Fit, smallest_card
from dimba.plan.job import ResolvedJob

_GIB = 1 << 30
_KEY = "accelerate.strategy"
_AUTO = "set `strategy: auto`"


@dataclass(frozen=True)
class Strategy:
    """How the processes share the model: `one process`, `ddp` or `fsdp2`, with the reason."""

    name: str
    why: str
    advice: str = ""  # for a model that does not fit

    @property
    def reason(self) -> str:
        """The reason, with the advice."""
        return "; ".join(filter(None, (self.why, self.advice)))

    def dividing(self, rows: RowSharing) -> "Strategy":
        """The same, with rows that several GPUs share; then the model fits."""
        return replace(self, why=f"{self.why}; {rows.why}", advice="") if rows.why else self

    def shards(self, processes: int) -> int:
        """Number of parts of the model."""
        return processes if self.name == "fsdp2" else 1

    def flags(self, objective: Objective[Any]) -> tuple[str, ...]:
        """The flags of `accelerate launch`; none unless the model is sharded."""
        if self.name != "fsdp2":
            return ()
        efficient = "true" if objective.loads_lazily else "false"
        return (
            *("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
            *("--fsdp_reshard_after_forward", "true", "--fsdp_state_dict_type", "SHARDED_STATE_DICT"),
            *("--fsdp_cpu_ram_efficient_loading", efficient),
        )


def choose_strategy(fit: Fit) -> Strategy:
    """FSDP2 if asked for, or if full fine-tuning does not fit one GPU; else DDP.

    Others' trainers are sharded only where that is asked for: many save nothing of a sharded model, and say nothing.

    Raises:
        BadInput: FSDP2 is asked for or needed where it breaks, or there is nothing to shard.
    """
    job, processes = fit.job, fit.processes
    asked = job.accelerate.strategy
    if asked == "fsdp2" and (problem := _why_not_sharded(fit)):
        raise problem
    if processes == 1:
        return Strategy("one process", "one process has the whole model")
    large = _too_large(fit)
    needs_sharding = asked == "auto" and job.method == "full" and bool(large) and fit.ours
    if fit.ours and (needs_sharding or asked == "fsdp2"):
        _check_optimizer(job.spec.training.optimizer, large if needs_sharding else "")
    if asked == "fsdp2":
        return Strategy("fsdp2", f"as asked: each of {processes} processes holds a part of the model")
    if needs_sharding:
        return Strategy("fsdp2", f"{large}: each of {processes} processes holds a part")
    why = f"{_why_unsharded(job)}: each of {processes} processes holds the complete model"
    return Strategy("ddp", why, f"{large}. Use `method: lora` or `qlora`" if large else "")


def share(fit: Fit, nodes: int, flags: Collection[str]) -> tuple[Fit, Strategy]:
    """(the job with its model and its rows divided as they have to be, how); `flags` are the trainer's.

    Raises:
        BadInput: as `choose_strategy` and `choose_sharing`.
    """
    strategy = choose_strategy(fit)
    fit = fit.shared_by(strategy.shards(fit.processes))
    rows = choose_sharing(fit, nodes, flags)
    return fit.of(fit.job.divided(rows.ranks)), strategy.dividing(rows)


def _check_optimizer(name: str, large: str) -> None:
    if name not in SHARDED:
        because = f", and {large}" if large else ""
        raise BadInput(f"{name} does not work with `fsdp2`{because}", NOT_SHARDED_HINT, key=OPTIMIZER.key)


def _why_unsharded(job: ResolvedJob) -> str:
    if job.accelerate.strategy == "ddp":
        return "as asked"
    return "a quantised base cannot be sharded" if job.method == "qlora" else "the fastest"


def _too_large(fit: Fit) -> str:
    """Why the model does not fit one GPU; empty if it does, or if that is not known."""
    least, card = fit.least(), smallest_card(fit.gpus)
    if least is None or card is None or least.total <= card:
        return ""
    needed = f"{least.total / _GIB:.1f} GiB with one row per batch"
    return f"the model does not fit one GPU ({needed}, and a GPU has {card / _GIB:.1f})"


def _why_not_sharded(fit: Fit) -> DimbaError | None:
    if fit.job.method == "qlora":
        cause = "`fsdp2` with `method: qlora` breaks: 4-bit weights cannot be sharded"
        return BadInput(cause, "set `strategy: ddp`", key=_KEY)
    if not fit.gpus:
        return BadInput("`fsdp2` has no effect on the CPU: accelerate silently trains with ddp there", _AUTO, key=_KEY)
    if fit.processes == 1:
        hint = f"{_AUTO}, or more in `resources.gpus`"
        return BadInput("`fsdp2` needs two GPUs or more, and the job has one", hint, key=_KEY)
    return None

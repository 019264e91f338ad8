"""Activation checkpointing: of as few layers as memory needs. Pure."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from dimba.common.units import size
from dimba.objectives.budgets import FILLED
from dimba.options.checkpointing import ALL, NONE, OFFLOADED, Checkpointing
from dimba.plan.fitting import Fit, card_room
from dimba.plan.job import RECOMPUTE
from dimba.plan.model import ActivationPlan, MemoryEstimate

_GIB = 1 << 30


def resolve_activations(fit: Fit, flags: Collection[str]) -> tuple[Fit, ActivationPlan]:
    """(the job with the activation checkpointing that memory needs, the choice in words).

    Unchanged if the spec decides, or if only a first step can: then the project's own trainers try it. They also
    recompute more than the plan says if their first step shows that it does not fit; so nothing is passed to them
    where all activations are estimated to fit.
    """
    if asked := fit.job.checkpointing:
        return fit, _plan(fit, asked, _as_asked(fit))
    if not fit.gpus:
        return fit, _plan(fit, NONE, " (a CPU has memory)")
    if not fit.ours or f"--{RECOMPUTE}" not in flags:  # a trainer in an older image may lack the flag
        return fit, _plan(fit, None)
    if why := _never_tried(fit):
        return fit.of(fit.job.with_checkpointing(ALL)), _plan(fit, ALL, f" ({why})")
    return _by_estimate(fit)


def _by_estimate(fit: Fit) -> tuple[Fit, ActivationPlan]:
    room, needed = card_room(fit), fit.estimate()
    if needed is None or needed.lower_bound or room is None:
        return fit, _plan(fit, None)
    tried = ((each, _estimated(fit, each)) for each in _by_speed(fit))
    fitting = ((each, found) for each, found in tried if found.total <= FILLED * room)
    chosen, found = next(fitting, None) or _least(fit)
    about = f", {found.total / _GIB:.1f} of {room / _GIB:.1f} GiB"
    about += f" and {size(found.offloaded)} of pinned host memory per GPU" if found.offloaded else ""
    made = replace(fit, checkpointing=NONE) if chosen == NONE else fit.of(fit.job.with_checkpointing(chosen))
    return made, _plan(fit, chosen, about)


def _by_speed(fit: Fit) -> Iterator[Checkpointing]:
    """The choices from the fastest to the one that needs least memory."""
    assert fit.checkpoint.shape, "without it the estimate is a lower bound"
    yield from (Checkpointing(layers=number) for number in range(fit.checkpoint.shape.layers))
    yield from (ALL, OFFLOADED)


def _least(fit: Fit) -> tuple[Checkpointing, MemoryEstimate]:
    return min(((each, _estimated(fit, each)) for each in (ALL, OFFLOADED)), key=lambda each: each[1].total)


def _estimated(fit: Fit, chosen: Checkpointing) -> MemoryEstimate:
    found = replace(fit, checkpointing=chosen).estimate()
    assert found, "another choice has an estimate"
    return found


def _plan(fit: Fit, chosen: Checkpointing | None, about: str = "") -> ActivationPlan:
    layers = fit.checkpoint.shape.layers if fit.checkpoint.shape else None
    if chosen is None:
        return ActivationPlan(layers=None, of=layers, offload=False, text="off if a first step fits without it")
    count = chosen.layers if layers is None else chosen.count(layers)
    return ActivationPlan(layers=count, of=layers, offload=chosen.offload, text=f"{chosen.words(layers)}{about}")


def _as_asked(fit: Fit) -> str:
    asked = fit.job.checkpointing
    if asked == OFFLOADED and not fit.gpus:
        return " (as asked; a CPU has no other memory, so they stay where they are)"
    return " (as asked)"


def _never_tried(fit: Fit) -> str:
    """Why the trainers would not try to keep activations; empty if they would."""
    if fit.shards > 1:
        return "the model is sharded because of its size"
    if fit.job.ranks_per_row > 1:
        return "several GPUs share a row"
    objective = fit.job.objective
    if not objective.loss_waits or fit.processes == 1:
        return ""
    samples = objective.memory(fit.job.trainer_args, fit.compares).samples
    return "several GPUs sample together" if samples else "several GPUs wait for each other in the loss"

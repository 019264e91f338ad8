"""Activation checkpointing: on where memory needs it, otherwise off. Pure."""

from collections.abc import Collection
from dataclasses import replace

from dimba.objectives.budgets import FILLED
from dimba.plan.fitting import Fit, card_room
from dimba.plan.job import RECOMPUTE

_GIB = 1 << 30


def resolve_activations(fit: Fit, flags: Collection[str]) -> tuple[Fit, str]:
    """(the job, with activation checkpointing if memory needs it; the reason). Unchanged if the spec decides.

    The project's own trainers keep activations if a first step shows that they fit, so only `on` is passed to them. A
    trainer in an older image may lack the flag.
    """
    if (
        not fit.gpus
        or not fit.ours
        or f"--{RECOMPUTE}" not in flags
        or fit.job.trainer_args.get(RECOMPUTE, "auto") != "auto"
    ):
        return fit, ""
    if why := _never_tried(fit):
        return fit.of(fit.job.recomputing()), why
    kept, room = replace(fit, recomputes=False), card_room(fit)
    needed = kept.estimate()
    if needed is None or needed.lower_bound or room is None:
        return fit, ""
    why = f"with them kept the job takes {needed.total / _GIB:.1f} of {room / _GIB:.1f} GiB"
    return (kept if needed.total <= FILLED * room else fit.of(fit.job.recomputing())), why


def _never_tried(fit: Fit) -> str:
    """Why the trainers would not try to keep activations; empty if they would."""
    if fit.shards > 1:
        return "the model is sharded because of its size"
    objective = fit.job.objective
    if not objective.loss_waits or fit.processes == 1:
        return ""
    samples = objective.memory(fit.job.trainer_args, fit.compares).samples
    return "several GPUs sample together" if samples else "several GPUs wait for each other in the loss"

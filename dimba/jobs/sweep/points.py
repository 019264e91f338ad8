"""Evaluation points of a run, which `--stop-worst` needs: held-out rows, and evaluations before the end."""

from collections.abc import Iterator, Sequence

from dimba.common.errors import BadInput
from dimba.objectives.metrics import measured_otherwise, metric_of
from dimba.options import table
from dimba.options.tracking_table import HELD_OUT
from dimba.plan.model import LaunchPlan
from dimba.spec import JobSpec

_KEY = "--stop-worst"


def require_points(plan: LaunchPlan, spec: JobSpec, keys: Sequence[str]) -> Iterator[BadInput]:
    """The reason why no run could be stopped early: it has no evaluation before its end, or none that compares."""
    metric = metric_of(spec.objective, spec.trainer_args)
    if otherwise := measured_otherwise(metric, keys):
        cause = f"{_KEY} compares runs in one measure on the same rows, which differ with {' and '.join(otherwise)}"
        yield BadInput(cause, "leave it out, or sweep other keys")
    if not metric.during_training:
        hint = "leave it out; `dimba ps --group` compares the runs when they have ended"
        yield BadInput(f"{_KEY}: `mode: {spec.mode}` tests its held-out rows only before and after training", hint)
    elif not metric.on_held_out:
        split, steps = table.VALIDATION_SPLIT.name, table.EVAL_STEPS.name
        hint = f"`--set trainer_args.{split}={HELD_OUT} --set trainer_args.{steps}=50`"
        yield BadInput(f"{_KEY} compares runs on held-out rows, and none are held out", hint)
    elif table.EVAL_STEPS.name not in spec.trainer_args and _evaluations(plan, spec) < 2:
        hint = f"`--set trainer_args.{table.EVAL_STEPS.name}=50` evaluates every 50 steps"
        yield BadInput(f"{_KEY} needs evaluations before the end, and there is one per epoch", hint)


def _evaluations(plan: LaunchPlan, spec: JobSpec) -> float:
    """Evaluations of a run that evaluates after each epoch; infinite where the steps are unknown."""
    if plan.steps.total and plan.steps.per_epoch:
        return plan.steps.total / plan.steps.per_epoch
    return spec.training.epochs or float("inf")

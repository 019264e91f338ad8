"""What evaluations and trackers need: validation rows, a package, a network and a key. Pure."""

import math
from collections.abc import Callable, Iterator

from dimba.common.errors import BadInput, DimbaError
from dimba.host.facts import HostFacts
from dimba.options import table
from dimba.options.tracking_table import EARLY_STOP, HELD_OUT, NEED_ROWS, NO_ROWS, REPORT_TO, TRACKERS
from dimba.spec import JobSpec

_WANDB = "wandb"
_WANDB_KEY = "WANDB_API_KEY"
_STAYS = ("WANDB_MODE=offline", "WANDB_MODE=disabled")


def evaluation_problems(spec: JobSpec) -> Iterator[DimbaError]:
    """The reasons why one of the project's own trainers has no validation loss to decide by."""
    for param in NEED_ROWS:
        if not getattr(spec.training, param.key.partition(".")[2]):
            continue
        if not spec.objective.takes(param):
            yield BadInput(f"`mode: {spec.mode}` has no validation loss", f"leave out `{param.key}`", key=param.key)
        elif spec.trainer_args.get(table.VALIDATION_SPLIT.name) in (None, False):
            hint = f"hold some out with `trainer_args: {{{table.VALIDATION_SPLIT.name}: {HELD_OUT}}}`"
            yield BadInput(NO_ROWS, hint, key=param.key)


def evaluation_notes(spec: JobSpec) -> list[str]:
    """One line if the run has too few evaluations for `early_stop` to end it."""
    patience, epochs = spec.training.early_stop, spec.training.epochs
    if patience is None or epochs is None or table.EVAL_STEPS.name in spec.trainer_args:
        return []
    evaluations = math.ceil(epochs)
    if patience < evaluations:
        return []
    more = f"`trainer_args: {{{table.EVAL_STEPS.name}: 50}}` evaluates more often"
    return [f"{EARLY_STOP.key}: {patience} cannot act: one evaluation per epoch, {evaluations} in all; {more}"]


def tracker_problems(spec: JobSpec, facts: HostFacts, may_have: Callable[[str], bool]) -> Iterator[DimbaError]:
    """The reasons why the job could not send its metrics to the tracker that the spec names."""
    tracker = spec.training.report_to
    package = TRACKERS.get(tracker)
    if package is None:
        return
    if not may_have(package):
        where = "in the image that dimba builds" if facts.image else "here, where the job would run"
        other = "give an image that has it with `container.image`" if facts.image else f"`pip install {package}`"
        yield BadInput(f"{tracker} is not installed {where}", f"{other}, or leave it out", key=REPORT_TO.key)
    if facts.image and tracker == _WANDB and not _is_known(spec):
        hint = f"`container: {{env: [{_WANDB_KEY}]}}` passes it on; `WANDB_MODE=offline` there needs none"
        yield BadInput(f"wandb needs {_WANDB_KEY} in the container", hint, key=REPORT_TO.key)


def _is_known(spec: JobSpec) -> bool:
    names = {item.partition("=")[0] for item in spec.container.env}
    return _WANDB_KEY in names or bool(set(_STAYS) & set(spec.container.env))


def sends_metrics(spec: JobSpec) -> bool:
    """Whether the job's tracker needs a network."""
    return spec.training.report_to == _WANDB and not set(_STAYS) & set(spec.container.env)

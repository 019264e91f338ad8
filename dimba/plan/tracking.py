"""What evaluations and trackers need: validation rows, a package, a network and a key. Pure."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from dimba.common.errors import BadInput, DimbaError
from dimba.host.facts import HostFacts
from dimba.options import table
from dimba.options.tracking_table import EARLY_STOP, HELD_OUT, NEED_ROWS, NO_ROWS, REPORT_TO, TRACKER_FOLDERS, TRACKERS
from dimba.spec import JobSpec

_WANDB = "wandb"
_WANDB_KEY = "WANDB_API_KEY"
_STAYS = ("WANDB_MODE=offline", "WANDB_MODE=disabled")
_TRACKIO_ELSEWHERE = {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_DATASET_ID", "TRACKIO_BUCKET_ID"}
_MLFLOW_URI = "MLFLOW_TRACKING_URI"
_LOCAL_STORES = ("sqlite:", "file:", "/", "./")
_STAY_HINTS = {
    _WANDB: "`container: {env: [WANDB_MODE=offline]}`",
    "trackio": "leave TRACKIO_SPACE_ID and the like out of `container.env`",
    "mlflow": f"leave {_MLFLOW_URI} out of `container.env`",
}


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
    """The reasons why the job could not send its metrics to the trackers that the spec names."""
    for tracker in spec.training.trackers:
        if not may_have(TRACKERS[tracker]):
            yield _not_installed(tracker, in_image=facts.image is not None)
    if facts.image and _WANDB in spec.training.trackers and not _has_key(spec):
        hint = f"`container: {{env: [{_WANDB_KEY}]}}` passes it on; `WANDB_MODE=offline` there needs none"
        yield BadInput(f"wandb needs {_WANDB_KEY} in the container", hint, key=REPORT_TO.key)
    remote = remote_trackers(spec)
    if facts.image and remote and spec.container.network == "none":
        hint = f"`container.network: bridge`, or {_STAY_HINTS[remote[0]]}"
        yield BadInput(
            f"{remote[0]} sends the metrics elsewhere, and `network: none` forbids it", hint, key=REPORT_TO.key
        )


def _not_installed(tracker: str, *, in_image: bool) -> BadInput:
    package = TRACKERS[tracker]
    if not in_image:
        hint = f"`pip install {package}`, or leave it out"
        return BadInput(f"{tracker} is not installed here, where the job would run", hint, key=REPORT_TO.key)
    hint = "derive an image that has it (docs/training.md shows how) and name it in `container.image`, or leave it out"
    return BadInput(f"{tracker} is not installed in the image that dimba builds", hint, key=REPORT_TO.key)


def tracker_notes(spec: JobSpec, output: Path) -> Iterator[str]:
    """Where each tracker's data go, and whether that takes a network."""
    remote = remote_trackers(spec)
    for tracker in spec.training.trackers:
        if tracker in remote:
            yield f"{REPORT_TO.key}: {tracker} sends the metrics to its server, and needs a network where the job runs"
        elif tracker in TRACKER_FOLDERS:
            yield f"{REPORT_TO.key}: {tracker} writes to {output / TRACKER_FOLDERS[tracker]}, without a network"
        else:
            yield f"{REPORT_TO.key}: {tracker} writes beside the log, without a network"


def remote_trackers(spec: JobSpec) -> tuple[str, ...]:
    """The trackers that send the metrics to another machine."""
    given = {name: value for name, _, value in (item.partition("=") for item in spec.container.env)}
    stays = {
        _WANDB: bool(set(_STAYS) & set(spec.container.env)),
        "trackio": not _TRACKIO_ELSEWHERE & set(given),
        "mlflow": _MLFLOW_URI not in given or given[_MLFLOW_URI].startswith(_LOCAL_STORES),
    }
    return tuple(tracker for tracker in spec.training.trackers if not stays.get(tracker, True))


def _has_key(spec: JobSpec) -> bool:
    names = {item.partition("=")[0] for item in spec.container.env}
    return _WANDB_KEY in names or bool(set(_STAYS) & set(spec.container.env))

"""The trackers that get the metrics beside metrics.jsonl: installed, named after the run, writing what outlives it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dimba.common.checkpoint.check import is_installed
from dimba.common.contract import ENV_RUN_ID
from dimba.common.errors import BadInput
from dimba.options.tracking_table import REPORT_TO, TRACKER_FOLDERS, TRACKERS, trackers_of
from dimba.options.trainer import TrainerOptions
from dimba.trainers.objectives.callbacks import metrics_path
from dimba.trainers.ranks import is_main_process

PROJECT = "dimba"  # of trackio, and the experiment of MLflow


def check_tracker(options: TrainerOptions) -> None:
    """Raises BadInput if a tracker's package is missing; sets where each writes and what it calls the run."""
    trackers = trackers_of(options.report_to)
    for tracker in trackers:
        package = TRACKERS[tracker]
        if not is_installed(package):
            problem = f"{tracker} is not installed here"
            raise BadInput(problem, f"`pip install {package}`, or leave it out", key=REPORT_TO.flag)
    for name, value in _variables(
        trackers, metrics_path(options.output_dir).parent, Path(options.output_dir).absolute()
    ):
        os.environ.setdefault(name, value)  # what the user sets comes first


def _variables(trackers: Sequence[str], attempt: Path, output: Path) -> Iterator[tuple[str, str]]:
    """A resumed run continues as the same run of wandb and of trackio."""
    folders = (attempt, *(output / TRACKER_FOLDERS[each] for each in trackers if each in TRACKER_FOLDERS))
    for folder in folders if is_main_process() else ():  # else the first rank would not remove what another one made
        folder.mkdir(parents=True, exist_ok=True)
    yield "TENSORBOARD_LOGGING_DIR", str(attempt / "tensorboard")
    yield "WANDB_DIR", str(attempt)
    yield "TRACKIO_DIR", str(output / TRACKER_FOLDERS["trackio"])
    yield from _of_mlflow(output / TRACKER_FOLDERS["mlflow"])
    if run := os.environ.get(ENV_RUN_ID):
        yield "WANDB_RUN_ID", run
        yield "WANDB_RESUME", "allow"


def _of_mlflow(folder: Path) -> Iterator[tuple[str, str]]:
    has_database = is_installed("sqlalchemy")  # mlflow-skinny has files alone
    yield "MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db" if has_database else folder.as_uri()
    yield "MLFLOW_ALLOW_FILE_STORE", "true"
    yield "MLFLOW_EXPERIMENT_NAME", PROJECT
    yield "MLFLOW_DISABLE_TELEMETRY", "true"


def run_name(options: TrainerOptions) -> str:
    """The run's id under the launcher, else the output folder's name."""
    return os.environ.get(ENV_RUN_ID) or Path(options.output_dir).absolute().name

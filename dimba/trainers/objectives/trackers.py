"""The tracker that gets the metrics beside metrics.jsonl: installed, named after the run, writing beside its log."""

import os
from pathlib import Path

from dimba.common.checkpoint.check import is_installed
from dimba.common.contract import ENV_RUN_ID
from dimba.common.errors import BadInput
from dimba.options.tracking_table import REPORT_TO, TRACKERS
from dimba.options.trainer import TrainerOptions
from dimba.trainers.objectives.callbacks import metrics_path


def check_tracker(options: TrainerOptions) -> None:
    """Raises BadInput if the tracker's package is missing; sets where it writes and what it calls the run."""
    package = TRACKERS.get(options.report_to)
    if package is None:
        return
    if not is_installed(package):
        problem = f"{options.report_to} is not installed here"
        raise BadInput(problem, f"`pip install {package}`, or leave it out", key=REPORT_TO.flag)
    _place(metrics_path(options.output_dir).parent)


def _place(folder: Path) -> None:
    """Variables that the user sets come first. A resumed run continues as the same run of Weights & Biases."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    os.environ.setdefault("WANDB_DIR", str(folder))
    if run := os.environ.get(ENV_RUN_ID):
        os.environ.setdefault("WANDB_RUN_ID", run)
        os.environ.setdefault("WANDB_RESUME", "allow")


def run_name(options: TrainerOptions) -> str:
    """The run's id under the launcher, else the output folder's name."""
    return os.environ.get(ENV_RUN_ID) or Path(options.output_dir).absolute().name

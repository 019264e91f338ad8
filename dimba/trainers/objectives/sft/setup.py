"""What the trainers of every family of models are set up with: settings, the rows of an epoch, callbacks."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig

from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.data.loading import Data, Pieces, as_dataset, stream_as_dataset
from dimba.trainers.models.loading import Compute
from dimba.trainers.objectives.callbacks import Metrics, StopOnSignal
from dimba.trainers.objectives.evaluations import evaluation_callbacks
from dimba.trainers.objectives.example_run import example_settings
from dimba.trainers.objectives.sft.streamed_run import StopAtUnusableRow


def sft_config(options: SftOptions, compute: Compute, *, validates: bool, **more: Any) -> SFTConfig:
    """The settings of a trainer, with those that one family has more. It connects the ranks."""
    return SFTConfig(
        train_sampling_strategy="sequential" if options.stream else "random",
        **example_settings(options, compute, SFT, validates=validates),
        **more,
    )


def training_rows(options: SftOptions, data: Data[Pieces], *, step: int) -> Dataset:
    """The rows of an epoch, in full steps of `step` rows; of a stream those of all steps."""
    if data.stream is None or options.max_steps is None:
        return as_dataset(data.train, step=step)
    return stream_as_dataset(data.stream, rows=options.max_steps * step)


def callbacks(options: SftOptions, data: Data[Pieces], metrics: Path, stop: StopOnSignal) -> list[TrainerCallback]:
    """Metrics, the end at an unusable row of a stream or at a signal, and evaluations."""
    at_bad_row = [StopAtUnusableRow(data.stream, stop)] if data.stream else []
    return [Metrics(metrics), *at_bad_row, stop, *evaluation_callbacks(options)]

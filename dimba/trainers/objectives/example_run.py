"""What the objectives that learn from given answers share: their data, and the run from first step to saved model."""

from collections.abc import Callable
from typing import Any, TypeVar

from transformers import Trainer

from dimba.common.contract import EXIT_STOPPED
from dimba.objectives.objective import Objective
from dimba.options.examples import ExampleOptions
from dimba.trainers.data.loading import Data, Examples
from dimba.trainers.kernels.allocator import grow_segments
from dimba.trainers.kernels.heap import keep_freed_memory
from dimba.trainers.models.loading import Compute
from dimba.trainers.models.precision import base_precision
from dimba.trainers.models.rehearsal import rehearse
from dimba.trainers.models.saving import save, stop_where_turns_end
from dimba.trainers.models.sharding import connect_ranks
from dimba.trainers.objectives.callbacks import StopOnSignal
from dimba.trainers.objectives.continuations import ROWS, Ids
from dimba.trainers.objectives.data_output import print_data, record_data
from dimba.trainers.objectives.evaluations import check_validation, load_best
from dimba.trainers.objectives.learning import LearningProof
from dimba.trainers.objectives.run_settings import can_fall_back, has_just_evaluated, run_settings
from dimba.trainers.objectives.trackers import check_tracker
from dimba.trainers.progress import Progress, row_printer
from dimba.trainers.ranks import is_main_process

Options = TypeVar("Options", bound=ExampleOptions)


def prepare_data(
    load: Callable[[Options, Progress], Data[Examples]], options: Options, compute: Compute
) -> Data[Examples]:
    """The data from `load`, printed once, after which the ranks are connected; raises BadInput for unusable data."""
    if compute.on_cpu:
        keep_freed_memory()
    else:
        grow_segments()
    check_validation(options)
    check_tracker(options)
    data = load(options, row_printer()).require_usable()
    if is_main_process():
        record_data(data.report)
        print_data(data.report)
    connect_ranks()
    return data


def example_settings(
    options: ExampleOptions, compute: Compute, objective: Objective[Any], *, validates: bool
) -> dict[str, Any]:
    """Keyword arguments of the configuration of TRL, those of `run_settings` included."""
    return {
        "output_dir": options.output_dir,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.grad_accumulation_steps,
        "num_train_epochs": options.epochs,
        "max_steps": options.max_steps or -1,
        "learning_rate": options.learning_rate,
        "max_length": None,  # the rows are tokens already: TRL must not cut them again
        "eval_strategy": ("steps" if options.eval_steps else "epoch") if validates else "no",
        "eval_steps": options.eval_steps,
        "metric_for_best_model": "eval_loss" if options.save_best else None,
        "greater_is_better": False if options.save_best else None,
        "per_device_eval_batch_size": options.batch_size,
        **run_settings(options, compute, can_fall_back=can_fall_back(options, objective)),
    }


def prepare_to_save(
    trainer: Trainer, data: Data[Any], options: ExampleOptions, prompt: Callable[[Any, int], Ids]
) -> LearningProof:
    """Rehearse the save, and look at the model before it is trained; `prompt` returns the n-th row's prompt.

    Raises:
        BadInput: the model, its configuration or its tokenizer could not be saved at the end.
    """
    stop_where_turns_end(trainer.model, data.tokenizer, data.turn_ends)
    rows = data.validation if len(data.validation) else data.train
    prompts = [prompt(rows, number) for number in range(min(ROWS, len(rows)))]
    precision = base_precision(options.base_checkpoint)
    rehearse(trainer, precision, prompts, options.base_checkpoint)
    return LearningProof(trainer, prompts, precision, minimises=True)


def train_and_save(
    trainer: Trainer,
    data: Data[Any],
    options: ExampleOptions,
    stop: StopOnSignal,
    *,
    checkpoint: str | None,
    proof: LearningProof,
) -> int:
    """Train from the checkpoint, evaluate the last step, and save; returns 0, or EXIT_STOPPED for a stopped run."""
    trainer.train(resume_from_checkpoint=checkpoint)
    if stop.stopped:
        return EXIT_STOPPED
    if len(data.validation) and not has_just_evaluated(trainer.state):
        trainer.evaluate()
    if options.save_best:
        load_best(trainer)
    stop_where_turns_end(trainer.model, data.tokenizer, data.turn_ends)
    save(trainer, options.output_dir, proof.precision)
    proof.report(options.output_dir)
    return 0

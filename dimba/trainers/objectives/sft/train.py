"""Supervised fine-tuning, from options to a saved model."""

from dimba.common.contract import EXIT_STOPPED
from dimba.objectives.sft import SftOptions
from dimba.trainers.data.loading import Data, Pieces, load_data
from dimba.trainers.kernels.heap import keep_freed_memory
from dimba.trainers.models.checkpoints import checkpoint_to_resume
from dimba.trainers.models.loading import Compute, choose_compute, load_model
from dimba.trainers.models.saving import output_folder, quiet, save, stop_where_turns_end
from dimba.trainers.models.sharding import connect_ranks
from dimba.trainers.objectives.callbacks import StopOnSignal
from dimba.trainers.objectives.data_output import print_data
from dimba.trainers.objectives.run_settings import has_just_evaluated
from dimba.trainers.objectives.sft.trainer import make_trainer
from dimba.trainers.progress import row_printer
from dimba.trainers.ranks import is_main_process


def train(options: SftOptions) -> int:
    """Train and save; returns the exit status: 0, or EXIT_STOPPED for a run that was stopped and saved."""
    quiet()
    with output_folder(options):
        checkpoint = checkpoint_to_resume(options.resume_from_checkpoint)
        compute = choose_compute(options.device, options.mixed_precision)
        data = _load_data(options, compute)
        model = load_model(options, compute, attention=options.attention)
        stop = StopOnSignal()
        trainer = make_trainer(options, model, data, compute, stop)
    trainer.train(resume_from_checkpoint=checkpoint)
    if stop.stopped:
        return EXIT_STOPPED
    if len(data.validation) and not has_just_evaluated(trainer.state):
        trainer.evaluate()
    stop_where_turns_end(trainer.model, data.tokenizer, data.turn_ends)
    save(trainer, options.output_dir)
    return 0


def _load_data(options: SftOptions, compute: Compute) -> Data[Pieces]:
    if compute.on_cpu:
        keep_freed_memory()
    data = load_data(options, row_printer()).require_usable()
    if is_main_process():
        print_data(data.report)
    connect_ranks()
    return data

"""Supervised fine-tuning, from options to a saved model."""

from dimba.common.contract import EXIT_STOPPED
from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.data.loading import load_data
from dimba.trainers.models.families import checked_family
from dimba.trainers.models.loading import check_checkpoint, choose_compute, load_model
from dimba.trainers.models.saving import output_folder, quiet
from dimba.trainers.objectives.callbacks import StopOnSignal
from dimba.trainers.objectives.continuations import prompt_of
from dimba.trainers.objectives.example_run import prepare_data, prepare_to_save, train_and_save
from dimba.trainers.objectives.registry import family_half
from dimba.trainers.objectives.resuming import beginning_of
from dimba.trainers.objectives.sft.streamed_run import report_stream


def train(options: SftOptions) -> int:
    """Train and save; returns the exit status: 0, or EXIT_STOPPED for a run that was stopped and saved."""
    quiet()
    with output_folder(options):
        beginning = beginning_of(options, SFT)
        compute = choose_compute(options.device, options.mixed_precision)
        family = checked_family(options, SFT)
        check_checkpoint(options)
        data = prepare_data(load_data, options, compute)
        model = load_model(options, compute, attention=options.attention)
        stop = StopOnSignal()
        trainer = family_half(SFT, family).make_trainer(options, model, data, compute, stop)
        trainer.trained_with = beginning.trained_with
        proof = prepare_to_save(trainer, data, options, lambda rows, number: prompt_of(rows.example(number)))
    status = train_and_save(trainer, data, options, stop, checkpoint=beginning.checkpoint, proof=proof)
    if data.stream:
        report_stream(data.stream, stopped=status == EXIT_STOPPED)
    return status

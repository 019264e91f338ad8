"""DPO, from options to a saved model: pairs, a frozen reference, and the accuracy on held-out pairs."""

from dimba.common.units import quantity
from dimba.objectives.dpo import DPO, DpoOptions
from dimba.trainers.models.families import checked_family
from dimba.trainers.models.loading import check_checkpoint, choose_compute, load_model
from dimba.trainers.models.saving import output_folder, quiet
from dimba.trainers.objectives.callbacks import StopOnSignal
from dimba.trainers.objectives.continuations import Ids, prompt_of
from dimba.trainers.objectives.dpo.pairs import Pairs, load_pairs, prompt_length
from dimba.trainers.objectives.example_run import prepare_data, prepare_to_save, train_and_save
from dimba.trainers.objectives.registry import family_half
from dimba.trainers.objectives.resuming import beginning_of
from dimba.trainers.ranks import is_main_process


def train(options: DpoOptions) -> int:
    """Train and save; returns the exit status: 0, or EXIT_STOPPED for a run that was stopped and saved."""
    quiet()
    with output_folder(options):
        beginning = beginning_of(options, DPO)
        compute = choose_compute(options.device, options.mixed_precision)
        family = checked_family(options, DPO)
        check_checkpoint(options)
        data = prepare_data(load_pairs, options, compute)
        model = load_model(options, compute, attention=options.attention)
        stop = StopOnSignal()
        trainer = family_half(DPO, family).make_trainer(options, model, data, compute, stop)
        trainer.trained_with = beginning.trained_with
        proof = prepare_to_save(trainer, data, options, _prompt)
    status = train_and_save(trainer, data, options, stop, checkpoint=beginning.checkpoint, proof=proof)
    if status == 0 and len(data.validation) and is_main_process():
        print(_held_out_summary(trainer.state.log_history, len(data.validation)), flush=True)
    return status


def _prompt(pairs: Pairs, number: int) -> Ids:
    """The tokens in front of both answers."""
    chosen, rejected = pairs.sides(int(pairs.numbers[number]))
    return prompt_of(chosen, prompt_length(chosen, rejected))


def _held_out_summary(history: list[dict[str, float]], pairs: int) -> str:
    """The share of held-out pairs whose chosen answer has the higher reward, before and after training."""
    evaluated = [logs for logs in history if "eval_accuracy" in logs]
    first, last = evaluated[0], evaluated[-1]
    before = f"{first['eval_accuracy']:.1%} before training, " if not first["step"] else ""
    after = f"{last['eval_accuracy']:.1%} after (margin {last['eval_margin']:+.4f})"
    return f"held-out pairs ordered rightly: {before}{after}, of {quantity(pairs, 'pair')}"

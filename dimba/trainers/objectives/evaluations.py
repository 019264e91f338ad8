"""What evaluations decide: which step's model is saved, and whether a run ends early."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.common.checkpoints import is_complete
from dimba.common.errors import BadInput
from dimba.common.units import quantity
from dimba.options.examples import ExampleOptions
from dimba.options.tracking_table import EARLY_STOP, HOLD_OUT_HINT, NO_ROWS, SAVE_BEST
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.ranks import is_main_process

_LOSS = "eval_loss"


def check_validation(options: ExampleOptions) -> None:
    """Raises BadInput if an option needs validation rows and none are held out."""
    wanted = {SAVE_BEST.flag: options.save_best, EARLY_STOP.flag: options.early_stop}
    needs = [flag for flag, value in wanted.items() if value]
    if needs and options.validation_split is None:
        raise BadInput(NO_ROWS, HOLD_OUT_HINT, key=needs[0])


def evaluation_callbacks(options: ExampleOptions) -> list[TrainerCallback]:
    """The callbacks for `--save-best` and `--early-stop`."""
    best = [SaveBest()] if options.save_best else []
    return [*best, EndEarly(options.early_stop)] if options.early_stop else [*best]


class SaveBest(TrainerCallback):
    """Saves a checkpoint at each evaluation with the lowest validation loss so far; the last step's is saved anyway."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Runs before the library compares the loss with `best_metric`."""
        lowest = math.inf if state.best_metric is None else state.best_metric
        if 0 < state.global_step < state.max_steps and state.log_history[-1][_LOSS] < lowest:
            control.should_save = True


class EndEarly(TrainerCallback):
    """Ends training after `patience` evaluations in a row without a lower validation loss."""

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """All evaluations count, also those before the run was resumed."""
        losses = [_comparable(logs[_LOSS]) for logs in state.log_history if _LOSS in logs]
        waited = len(losses) - 1 - losses.index(min(losses))
        if waited < self._patience or state.global_step >= state.max_steps:
            return
        control.should_training_stop = True
        if state.is_world_process_zero:
            since = f"no lower validation loss in {quantity(waited, 'evaluation')}"
            print(f"training ends early, at step {state.global_step}/{state.max_steps}: {since}", flush=True)


def _comparable(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def load_best(trainer: Trainer) -> None:
    """Loads the weights of the evaluation with the lowest validation loss. All ranks must call it together."""
    evaluated = [(_comparable(logs[_LOSS]), logs["step"]) for logs in trainer.state.log_history if _LOSS in logs]
    lowest, step = min(each for each in evaluated if each[1])
    folder = Path(trainer.args.output_dir, f"checkpoint-{step}")
    is_last = step == trainer.state.global_step
    if not is_last and is_complete(folder):
        trainer._load_from_checkpoint(str(folder), trainer.model_wrapped if is_sharded() else None)
    if is_main_process():
        print(_in_words(evaluated, lowest, step, is_kept=is_last or is_complete(folder)), flush=True)


def _in_words(evaluated: Sequence[tuple[float, int]], lowest: float, step: int, *, is_kept: bool) -> str:
    if not is_kept:
        return f"warning: the last step's model is saved: checkpoint-{step}, the best with {lowest:.4f}, is missing"
    last, last_step = evaluated[-1]
    beside = "" if step == last_step else f"; at the last step, {last_step}, it is {last:.4f}"
    return f"the best model is saved, of step {step}: validation loss {lowest:.4f}{beside}"

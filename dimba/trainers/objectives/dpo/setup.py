"""What the trainers of pairs of every family of models are set up with: settings, the reference, callbacks."""

from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback
from trl import DPOConfig

from dimba.common.units import quantity
from dimba.objectives.dpo import DPO, DpoOptions
from dimba.trainers.data.loading import Data
from dimba.trainers.models.loading import Compute, load_reference
from dimba.trainers.models.vocabulary import add_rows
from dimba.trainers.objectives.callbacks import Metrics, StopOnSignal, metrics_path
from dimba.trainers.objectives.dpo.batches import as_dataset, repeated
from dimba.trainers.objectives.dpo.pairs import Pairs
from dimba.trainers.objectives.evaluations import evaluation_callbacks
from dimba.trainers.objectives.example_run import example_settings
from dimba.trainers.ranks import world_size

# TRL's names of metrics, and ours beside them.
PLAIN = {
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
}


def dpo_config(options: DpoOptions, compute: Compute, *, validates: bool) -> DPOConfig:
    """The settings of a trainer. It connects the ranks."""
    return DPOConfig(
        beta=options.beta,
        loss_type=[options.loss_type],
        eval_on_start=validates and options.resume_from_checkpoint is None,
        **example_settings(options, compute, DPO, validates=validates),
    )


def datasets(options: DpoOptions, data: Data[Pairs]) -> dict[str, Dataset | None]:
    """The pairs of an epoch, in full steps, and those that are held out, as a trainer's arguments."""
    held_out = as_dataset(data.validation) if len(data.validation) else None
    return {"train_dataset": as_dataset(data.train, step=_effective_batch(options)), "eval_dataset": held_out}


def reference_of(options: DpoOptions, data: Data[Pairs], compute: Compute) -> PreTrainedModel | None:
    """A frozen copy of the base with the rows of the trained one; an adapter needs none."""
    if options.method != "full":
        return None
    reference = load_reference(options, compute, attention=options.attention)
    add_rows(reference, data.tokenizer)
    return reference


def callbacks(options: DpoOptions, stop: StopOnSignal) -> list[TrainerCallback]:
    """Metrics, the end at a signal, and evaluations."""
    metrics = Metrics(metrics_path(options.output_dir), ("loss", "margin", "accuracy"))
    return [metrics, stop, *evaluation_callbacks(options)]


def setup_notes(options: DpoOptions, data: Data[Pairs], *, has_copy: bool) -> str:
    """Lines on the reference, and on the pairs that fill the last step."""
    reference = "a frozen copy of the base" if has_copy else "the base, the adapter switched off"
    notes, step = [f"reference: {reference}"], _effective_batch(options)
    if again := repeated(len(data.train), step):
        notes.append(f"{quantity(again, 'pair')} trained on once more to fill the last step of {step}")
    return "\n".join(notes)


def _effective_batch(options: DpoOptions) -> int:
    """Pairs per optimiser step, on all processes."""
    return options.batch_size * options.grad_accumulation_steps * world_size()

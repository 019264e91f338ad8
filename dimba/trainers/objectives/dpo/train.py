"""DPO, from options to a saved model: pairs, a frozen reference, and the accuracy on held-out pairs."""

from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer

from dimba.common.units import quantity
from dimba.objectives.dpo import DPO, DpoOptions
from dimba.trainers.data.collation import Layout
from dimba.trainers.data.loading import Data
from dimba.trainers.data.packing import Batch
from dimba.trainers.kernels.choice import use_quickest_kernels
from dimba.trainers.kernels.step_time import Job
from dimba.trainers.models.adapters import adapter_config
from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.models.families import checked_family
from dimba.trainers.models.loading import (
    Compute,
    check_checkpoint,
    choose_compute,
    load_model,
    load_reference,
    prepare_base,
)
from dimba.trainers.models.memory import add_probe
from dimba.trainers.models.saving import output_folder, quiet
from dimba.trainers.models.vocabulary import add_rows
from dimba.trainers.objectives.callbacks import Metrics, StopOnSignal, metrics_path
from dimba.trainers.objectives.continuations import Ids, prompt_of
from dimba.trainers.objectives.dpo.pairs import (
    SIDES,
    Pairs,
    as_dataset,
    collate_pairs,
    load_pairs,
    prompt_length,
    repeated,
)
from dimba.trainers.objectives.evaluations import evaluation_callbacks
from dimba.trainers.objectives.example_run import example_settings, prepare_data, prepare_to_save, train_and_save
from dimba.trainers.objectives.resuming import beginning_of
from dimba.trainers.objectives.run_settings import can_fall_back, checkpoint_layers, configure
from dimba.trainers.ranks import is_main_process, world_size

# TRL's names of metrics, and ours beside them.
_PLAIN = {
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
}


def train(options: DpoOptions) -> int:
    """Train and save; returns the exit status: 0, or EXIT_STOPPED for a run that was stopped and saved."""
    quiet()
    with output_folder(options):
        beginning = beginning_of(options, DPO)
        compute = choose_compute(options.device, options.mixed_precision)
        checked_family(options, DPO)
        check_checkpoint(options)
        data = prepare_data(load_pairs, options, compute)
        stop = StopOnSignal()
        trainer = make_trainer(options, data, compute, stop)
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


class PairTrainer(CompleteCheckpoints, DPOTrainer):
    """TRL's trainer, with batches of `collate_pairs` and plain names of its metrics."""

    _total_train_tokens: int  # TRL's

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset  # the pairs are tokens already: TRL must not template or cut them again

    def _compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool
    ) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs, return_outputs)
        batches = self._batch_metrics()
        # An accuracy and a margin of 0 mean that all pairs are ties, as before the first step: half of them count.
        if batches["rewards/accuracies"][-1] == batches["rewards/margins"][-1] == 0:
            batches["rewards/accuracies"][-1] = 0.5
        batches["pairs"].append(len(inputs["input_ids"]) // 2)
        return loss

    def _batch_metrics(self) -> dict[str, list[float]]:
        """TRL's metrics of the batches since the last log, by their name."""
        batches: dict[str, list[float]] = self._metrics["train" if self.model.training else "eval"]
        return batches

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add plain names of TRL's metrics, as means over pairs: the last batch of an evaluation may be smaller."""
        batches = self._batch_metrics()
        pairs = batches.pop("pairs", [])
        for name, values in batches.items():
            if len(values) == len(pairs):
                batches[name] = [sum(value * count for value, count in zip(values, pairs, strict=True)) / sum(pairs)]
        batches.update({ours: batches[theirs] for theirs, ours in _PLAIN.items() if theirs in batches})
        super().log(logs, start_time)

    def probed_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of pairs that are not trained on, for `dimba.trainers.models.memory`."""
        tokens = self._total_train_tokens
        loss: torch.Tensor = self.compute_loss(model, inputs)
        self._total_train_tokens = tokens
        return loss


def make_trainer(options: DpoOptions, data: Data[Pairs], compute: Compute, stop: StopOnSignal) -> PairTrainer:
    """The trainer, its memory probed before the first step; full fine-tuning loads a frozen reference as well."""
    metrics = metrics_path(options.output_dir)
    validation = as_dataset(data.validation) if len(data.validation) else None
    model = load_model(options, compute, attention=options.attention)
    new = prepare_base(model, options, data.tokenizer, data.turn_ends)
    tries = can_fall_back(options, DPO)
    layers = checkpoint_layers(model, options, compute, can_fall_back=tries)
    trainer = PairTrainer(
        model=model,
        ref_model=_reference(options, data, compute),
        args=_config(options, compute, validates=validation is not None),
        train_dataset=as_dataset(data.train, step=_effective_batch(options)),
        eval_dataset=validation,
        data_collator=partial(collate_pairs, pad_id=data.tokenizer.pad_token_id),
        processing_class=data.tokenizer,
        peft_config=adapter_config(options, model, data.tokenizer, new),
        callbacks=[Metrics(metrics, ("loss", "margin", "accuracy")), stop, *evaluation_callbacks(options)],
    )
    if is_main_process():
        _print_choices(options, trainer, len(data.train), compute, layers.words)
    length = min(options.max_length, data.report.longest)
    batch = partial(_longest_pairs, rows=options.batch_size, length=length, pad_id=data.tokenizer.pad_token_id)
    add_probe(trainer, batch, metrics, layers, can_fall_back=tries)
    configure(trainer)
    use_quickest_kernels(Job(trainer, batch, options, compute.mixed))
    return trainer


def _reference(options: DpoOptions, data: Data[Pairs], compute: Compute) -> PreTrainedModel | None:
    """A frozen copy of the base with the rows of the trained one; an adapter needs none."""
    if options.method != "full":
        return None
    reference = load_reference(options, compute, attention=options.attention)
    add_rows(reference, data.tokenizer)
    return reference


def _longest_pairs(*, rows: int, length: int, pad_id: int) -> Batch:
    """A batch of `rows` pairs of which both sides are `length` tokens, to probe the memory with."""
    pair = {f"{side}_{part}": [1] * length for side in SIDES for part in ("ids", "labels")}
    return collate_pairs([pair] * rows, pad_id=pad_id)


def _effective_batch(options: DpoOptions) -> int:
    """Pairs per optimiser step, on all processes."""
    return options.batch_size * options.grad_accumulation_steps * world_size()


def _print_choices(options: DpoOptions, trainer: PairTrainer, pairs: int, compute: Compute, activations: str) -> None:
    layout = Layout(trainer.data_collator, is_packed=False, attention=trainer.model.config._attn_implementation)
    summary = layout.summary(mixed=compute.mixed, activations=activations)
    reference = "a frozen copy of the base" if trainer.ref_model else "the base, the adapter switched off"
    print(f"{summary}\nreference: {reference}", flush=True)
    step = _effective_batch(options)
    if again := repeated(pairs, step):
        print(f"{quantity(again, 'pair')} trained on once more to fill the last step of {step}", flush=True)


def _config(options: DpoOptions, compute: Compute, *, validates: bool) -> DPOConfig:
    return DPOConfig(
        beta=options.beta,
        loss_type=[options.loss_type],
        eval_on_start=validates and options.resume_from_checkpoint is None,
        **example_settings(options, compute, DPO, validates=validates),
    )

"""The trainer of pairs for causal models, put together from options, model and data."""

from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import DPOTrainer

from dimba.objectives.dpo import DPO, DpoOptions
from dimba.trainers.data.collation import Layout
from dimba.trainers.data.loading import Data
from dimba.trainers.data.packing import Batch
from dimba.trainers.kernels.choice import use_quickest_kernels
from dimba.trainers.kernels.step_time import Job
from dimba.trainers.models.adapters import adapter_config
from dimba.trainers.models.checkpoints import CompleteCheckpoints
from dimba.trainers.models.loading import Compute, prepare_base
from dimba.trainers.models.memory import add_probe
from dimba.trainers.objectives.callbacks import StopOnSignal, metrics_path
from dimba.trainers.objectives.dpo.batches import collate_pairs, longest_features
from dimba.trainers.objectives.dpo.pairs import Pairs
from dimba.trainers.objectives.dpo.setup import (
    PLAIN,
    callbacks,
    datasets,
    dpo_config,
    reference_of,
    setup_notes,
)
from dimba.trainers.objectives.run_settings import can_fall_back, checkpoint_layers, configure
from dimba.trainers.ranks import is_main_process


def make_trainer(
    options: DpoOptions, model: PreTrainedModel, data: Data[Pairs], compute: Compute, stop: StopOnSignal
) -> "PairTrainer":
    """The trainer, its memory probed before the first step; full fine-tuning loads a frozen reference as well."""
    new = prepare_base(model, options, data.tokenizer, data.turn_ends)
    tries = can_fall_back(options, DPO)
    layers = checkpoint_layers(model, options, compute, can_fall_back=tries)
    trainer = PairTrainer(
        model=model,
        ref_model=reference_of(options, data, compute),
        args=dpo_config(options, compute, validates=len(data.validation) > 0),
        **datasets(options, data),
        data_collator=partial(collate_pairs, pad_id=data.tokenizer.pad_token_id),
        processing_class=data.tokenizer,
        peft_config=adapter_config(options, model, data.tokenizer, new),
        callbacks=callbacks(options, stop),
    )
    if is_main_process():
        layout = Layout(trainer.data_collator, is_packed=False, attention=trainer.model.config._attn_implementation)
        print(layout.summary(mixed=compute.mixed, activations=layers.words))
        print(setup_notes(options, data, has_copy=trainer.ref_model is not None), flush=True)
    batch = partial(_longest_pairs, options, data)
    add_probe(trainer, batch, metrics_path(options.output_dir), layers, can_fall_back=tries)
    configure(trainer)
    use_quickest_kernels(Job(trainer, batch, options, compute.mixed))
    return trainer


def _longest_pairs(options: DpoOptions, data: Data[Pairs]) -> Batch:
    length = min(options.max_length, data.report.longest)
    features = longest_features(pairs=options.batch_size, length=length)
    return collate_pairs(features, pad_id=data.tokenizer.pad_token_id)


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
        batches.update({ours: batches[theirs] for theirs, ours in PLAIN.items() if theirs in batches})
        super().log(logs, start_time)

    def probed_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of pairs that are not trained on, for `dimba.trainers.models.memory`."""
        tokens = self._total_train_tokens
        loss: torch.Tensor = self.compute_loss(model, inputs)
        self._total_train_tokens = tokens
        return loss

"""The trainer of pairs for masked-diffusion models, put together from options, model and data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from transformers import PreTrainedModel

from dimba.common.units import precision_words
from dimba.objectives.dpo import DPO, DpoOptions
from dimba.trainers.data.loading import Data
from dimba.trainers.data.packing import Batch, Feature
from dimba.trainers.models.adapters import with_adapter
from dimba.trainers.models.loading import Compute, prepare_base
from dimba.trainers.models.masked_diffusion.noise import TAIL
from dimba.trainers.models.masked_diffusion.preparing import require_unused_mask
from dimba.trainers.models.masked_diffusion.tails import collate_with_tail
from dimba.trainers.models.memory import add_probe
from dimba.trainers.objectives.callbacks import StopOnSignal, metrics_path
from dimba.trainers.objectives.dpo.batches import longest_features, sides_of
from dimba.trainers.objectives.dpo.masked_trainer import MaskedPairTrainer
from dimba.trainers.objectives.dpo.pairs import Pairs
from dimba.trainers.objectives.dpo.setup import (
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
) -> MaskedPairTrainer:
    """The trainer, its memory probed before the first step; full fine-tuning loads a frozen reference as well."""
    new = prepare_base(model, options, data.tokenizer, data.turn_ends)
    require_unused_mask(model, data.train.store, options.base_checkpoint)
    tries = can_fall_back(options, DPO)
    layers = checkpoint_layers(model, options, compute, can_fall_back=tries)
    reference = reference_of(options, data, compute)
    trainer = MaskedPairTrainer(
        most=options.max_length,
        has_tails=not options.end_tail,
        reference=reference,
        draws=options.mask_draws,
        model=with_adapter(model, options, data.tokenizer, new),
        args=dpo_config(options, compute, validates=len(data.validation) > 0),
        **datasets(options, data),
        data_collator=partial(_collate, options=options, data=data),
        processing_class=data.tokenizer,
        callbacks=callbacks(options, stop),
    )
    if is_main_process():
        print(f"{precision_words(compute.mixed)}, rows padded, activation checkpointing {layers.words}")
        print(setup_notes(options, data, has_copy=reference is not None))
        print(
            f"{options.mask_draws} masks per answer and step, shared by both models; loss by {trainer.scoring}",
            flush=True,
        )
    batch = partial(_longest_pairs, options, data)
    add_probe(trainer, batch, metrics_path(options.output_dir), layers, can_fall_back=tries)
    configure(trainer)
    return trainer


def _collate(features: Sequence[Feature], *, options: DpoOptions, data: Data[Pairs]) -> Batch:
    tokenizer = data.tokenizer
    return collate_with_tail(
        sides_of(features),
        pad_id=tokenizer.pad_token_id,
        end_id=tokenizer.eos_token_id,
        multiple=options.end_tail,
        most=options.max_length,
    )


def _longest_pairs(options: DpoOptions, data: Data[Pairs]) -> Batch:
    length = min(options.max_length, data.report.longest + max(options.end_tail, TAIL))
    return _collate(longest_features(pairs=options.batch_size, length=length), options=options, data=data)

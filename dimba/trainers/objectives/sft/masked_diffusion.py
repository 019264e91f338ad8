"""The trainer of supervised fine-tuning of masked-diffusion models, put together from options, model and data."""

from __future__ import annotations

from functools import partial

from transformers import PreTrainedModel

from dimba.common.units import precision_words
from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.data.loading import Data, Pieces, as_dataset
from dimba.trainers.data.packing import Batch
from dimba.trainers.models.adapters import with_adapter
from dimba.trainers.models.loading import Compute, prepare_base
from dimba.trainers.models.masked_diffusion.noise import TAIL
from dimba.trainers.models.masked_diffusion.preparing import require_unused_mask
from dimba.trainers.models.masked_diffusion.tails import collate_with_tail
from dimba.trainers.models.memory import add_probe, longest_rows
from dimba.trainers.objectives.callbacks import StopOnSignal, metrics_path
from dimba.trainers.objectives.run_settings import can_fall_back, checkpoint_layers, configure
from dimba.trainers.objectives.sft.masked_trainer import MaskedTrainer
from dimba.trainers.objectives.sft.setup import callbacks, sft_config, training_rows
from dimba.trainers.ranks import is_main_process, world_size


def make_trainer(
    options: SftOptions, model: PreTrainedModel, data: Data[Pieces], compute: Compute, stop: StopOnSignal
) -> MaskedTrainer:
    """The trainer, its memory probed before the first step; prints how rows are laid out and scored."""
    metrics, at_once = metrics_path(options.output_dir), options.batch_size * world_size()
    new = prepare_base(model, options, data.tokenizer, data.turn_ends)
    require_unused_mask(model, data.train.store, options.base_checkpoint)
    args = sft_config(options, compute, validates=len(data.validation) > 0)
    collate = _collator(options, data)
    tries = can_fall_back(options, SFT)
    layers = checkpoint_layers(model, options, compute, can_fall_back=tries)
    if is_main_process():
        print(f"{precision_words(compute.mixed)}, rows padded, activation checkpointing {layers.words}", flush=True)
    trainer = MaskedTrainer(
        most=options.max_length,
        has_tails=not options.end_tail,
        model=with_adapter(model, options, data.tokenizer, new),
        args=args,
        train_dataset=training_rows(options, data, step=at_once * options.grad_accumulation_steps),
        eval_dataset=as_dataset(data.validation, step=at_once) if len(data.validation) else None,
        data_collator=collate,
        processing_class=data.tokenizer,
        callbacks=callbacks(options, data, metrics, stop),
    )
    if is_main_process():
        print(f"loss by {trainer.scoring}", flush=True)
    filled = data.report.longest + max(options.end_tail, TAIL)
    longest = options.max_length if data.stream else min(options.max_length, filled)
    batch = partial(longest_rows, collate, rows=options.batch_size, length=longest)
    add_probe(trainer, batch, metrics, layers, can_fall_back=tries)
    configure(trainer)
    return trainer


def _collator(options: SftOptions, data: Data[Pieces]) -> partial[Batch]:
    tokenizer = data.tokenizer
    return partial(
        collate_with_tail,
        pad_id=tokenizer.pad_token_id,
        end_id=tokenizer.eos_token_id,
        multiple=options.end_tail,
        most=options.max_length,
    )

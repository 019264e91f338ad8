"""The trainer of supervised fine-tuning of causal models, put together from options, model and data."""

from functools import partial

from transformers import PreTrainedModel
from trl import SFTConfig

from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.data.collation import choose_layout
from dimba.trainers.data.loading import Data, Pieces, as_dataset
from dimba.trainers.kernels.attention import Work
from dimba.trainers.kernels.choice import use_quickest_kernels
from dimba.trainers.kernels.step_time import Job
from dimba.trainers.models.adapters import adapter_config
from dimba.trainers.models.loading import Compute, prepare_base
from dimba.trainers.models.memory import add_probe, longest_rows
from dimba.trainers.objectives.callbacks import StopOnSignal, metrics_path
from dimba.trainers.objectives.run_settings import can_fall_back, checkpoint_layers, configure
from dimba.trainers.objectives.sft.causal_trainer import CausalTrainer
from dimba.trainers.objectives.sft.division_proof import share_rows
from dimba.trainers.objectives.sft.setup import callbacks, sft_config, training_rows
from dimba.trainers.ranks import is_main_process, world_size

# TRL must not template or pack the rows again.
_TOKENS_ALREADY = {"packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}


def make_trainer(
    options: SftOptions, model: PreTrainedModel, data: Data[Pieces], compute: Compute, stop: StopOnSignal
) -> CausalTrainer:
    """The trainer, its memory probed before the first step; prints the choices made for speed."""
    metrics, at_once = metrics_path(options.output_dir), options.batch_size * world_size()
    new = prepare_base(model, options, data.tokenizer, data.turn_ends)
    args = sft_config(options, compute, validates=len(data.validation) > 0, **_TOKENS_ALREADY)
    layout = choose_layout(options, model, data.tokenizer.pad_token_id, _work(options, data, args, compute))
    tries = can_fall_back(options, SFT)
    layers = checkpoint_layers(model, options, compute, can_fall_back=tries)
    if is_main_process():
        print(layout.summary(mixed=compute.mixed, activations=layers.words), flush=True)
    trainer = CausalTrainer(
        model=model,
        args=args,
        train_dataset=training_rows(options, data, step=at_once * options.grad_accumulation_steps),
        eval_dataset=as_dataset(data.validation, step=at_once) if len(data.validation) else None,
        data_collator=layout.collate,
        processing_class=data.tokenizer,
        peft_config=adapter_config(options, model, data.tokenizer, new),
        callbacks=callbacks(options, data, metrics, stop),
    )
    share_rows(trainer, options, packed=layout.is_packed)
    if is_main_process():
        print(f"loss by {trainer.scoring}", flush=True)
    longest = options.max_length if data.stream else min(options.max_length, data.report.longest)
    batch = partial(longest_rows, layout.collate, rows=options.batch_size, length=longest)
    add_probe(trainer, batch, metrics, layers, can_fall_back=tries)
    configure(trainer)
    use_quickest_kernels(Job(trainer, batch, options, compute.mixed))
    return trainer


def _work(options: SftOptions, data: Data[Pieces], args: SFTConfig, compute: Compute) -> Work:
    """What the attention of a batch has to do."""
    usual = min(data.report.median, options.max_length)
    return Work(
        device=args.device, mixed=compute.mixed, rows=options.batch_size, length=usual, longest=options.max_length
    )

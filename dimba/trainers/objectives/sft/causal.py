"""The trainer of supervised fine-tuning of causal models, put together from options, model and data."""

from functools import partial

from datasets import Dataset
from transformers import PreTrainedModel
from trl import SFTConfig

from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.data.collation import choose_layout
from dimba.trainers.data.loading import Data, Pieces, as_dataset, stream_as_dataset
from dimba.trainers.kernels.attention import Work
from dimba.trainers.kernels.choice import use_quickest_kernels
from dimba.trainers.kernels.step_time import Job
from dimba.trainers.models.adapters import adapter_config
from dimba.trainers.models.loading import Compute, prepare_base
from dimba.trainers.models.memory import add_probe, longest_rows
from dimba.trainers.objectives.callbacks import Metrics, StopOnSignal, metrics_path
from dimba.trainers.objectives.evaluations import evaluation_callbacks
from dimba.trainers.objectives.example_run import example_settings
from dimba.trainers.objectives.run_settings import can_fall_back, checkpoint_layers, configure
from dimba.trainers.objectives.sft.causal_trainer import CausalTrainer
from dimba.trainers.objectives.sft.division_proof import share_rows
from dimba.trainers.objectives.sft.streamed_run import StopAtUnusableRow
from dimba.trainers.ranks import is_main_process, world_size


def make_trainer(
    options: SftOptions, model: PreTrainedModel, data: Data[Pieces], compute: Compute, stop: StopOnSignal
) -> CausalTrainer:
    """The trainer, its memory probed before the first step; prints the choices made for speed."""
    metrics, at_once = metrics_path(options.output_dir), options.batch_size * world_size()
    new = prepare_base(model, options, data.tokenizer, data.turn_ends)
    args = _config(options, compute, validates=len(data.validation) > 0)  # it connects the ranks
    layout = choose_layout(options, model, data.tokenizer.pad_token_id, _work(options, data, args, compute))
    tries = can_fall_back(options, SFT)
    layers = checkpoint_layers(model, options, compute, can_fall_back=tries)
    if is_main_process():
        print(layout.summary(mixed=compute.mixed, activations=layers.words), flush=True)
    at_bad_row = [StopAtUnusableRow(data.stream, stop)] if data.stream else []
    trainer = CausalTrainer(
        model=model,
        args=args,
        train_dataset=_training_rows(options, data, step=at_once * options.grad_accumulation_steps),
        eval_dataset=as_dataset(data.validation, step=at_once) if len(data.validation) else None,
        data_collator=layout.collate,
        processing_class=data.tokenizer,
        peft_config=adapter_config(options, model, data.tokenizer, new),
        callbacks=[Metrics(metrics), *at_bad_row, stop, *evaluation_callbacks(options)],
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


def _training_rows(options: SftOptions, data: Data[Pieces], *, step: int) -> Dataset:
    """The rows of an epoch, in full steps of `step` rows; of a stream those of all steps."""
    if data.stream is None or options.max_steps is None:
        return as_dataset(data.train, step=step)
    return stream_as_dataset(data.stream, rows=options.max_steps * step)


def _config(options: SftOptions, compute: Compute, *, validates: bool) -> SFTConfig:
    return SFTConfig(
        # The rows are tokens and labels already: TRL must not template or pack them again.
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential" if options.stream else "random",
        **example_settings(options, compute, SFT, validates=validates),
    )

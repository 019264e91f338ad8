"""Supervised fine-tuning, from flags to a saved model."""

from functools import partial
from typing import TYPE_CHECKING, Any

from dimba.common.contract import EXIT_STOPPED
from dimba.dataset.token_report import DataReport
from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.command import is_first_rank, say_rows, world_size
from dimba.trainers.kernels.heap import keep_freed_memory
from dimba.trainers.models.checkpoints import where_to_go_on
from dimba.trainers.models.saving import output_folder, quiet, save, stop_where_turns_end
from dimba.trainers.objectives.run_settings import just_evaluated

if TYPE_CHECKING:
    from dimba.trainers.data.loading import Data, Pieces
    from dimba.trainers.data.tokenization import Progress
    from dimba.trainers.models.loading import Compute


def train(args: SftOptions) -> int:
    """Trains as `args` say; returns the exit status: 0, or EXIT_STOPPED where it was told to stop and saved."""
    with output_folder(args):
        begun = where_to_go_on(args.resume_from_checkpoint)
        trainer, stop, data = _prepared(args)
    trainer.train(resume_from_checkpoint=begun)
    if stop.stopped:
        return EXIT_STOPPED
    if len(data.validation) and not just_evaluated(trainer.state):
        trainer.evaluate()
    stop_where_turns_end(trainer.model, data.tokenizer, data.turn_ends)
    save(trainer, args.output_dir)
    return 0


def report(options: SftOptions, progress: "Progress") -> DataReport:
    """The data as training would read them; raises BadInput."""
    from dimba.trainers.data.loading import load_data

    return load_data(options, progress).report


def _prepared(args: SftOptions) -> tuple[Any, Any, "Data[Pieces]"]:
    from dimba.trainers.data.loading import load_data
    from dimba.trainers.data.reporting import introduce
    from dimba.trainers.models import loading
    from dimba.trainers.models.sharding import meet

    quiet()
    compute = loading.choose_compute(args.device, args.mixed_precision)
    if compute.on_cpu:
        keep_freed_memory()
    data = load_data(args, say_rows()).checked()
    if is_first_rank():
        introduce(data.report)
    meet()
    return *_trainer(args, loading.load_model(args, compute), data, compute), data


def _trainer(args: SftOptions, model: Any, data: "Data[Pieces]", compute: "Compute") -> tuple[Any, Any]:
    from dimba.trainers.data.collation import choose_collator, told
    from dimba.trainers.data.loading import as_dataset
    from dimba.trainers.models.loading import adapter_config
    from dimba.trainers.models.memory import add_probe, longest_rows
    from dimba.trainers.objectives.callbacks import Metrics, StopOnSignal, metrics_path
    from dimba.trainers.objectives.run_settings import activations, can_fall_back, settled
    from dimba.trainers.objectives.sft.causal_trainer import CausalTrainer

    stop, at_once = StopOnSignal(), args.batch_size * world_size()
    collate = choose_collator(args, model, data.tokenizer.pad_token_id, on_cpu=compute.on_cpu)
    if is_first_rank():
        print(
            told(
                model,
                collate,
                mixed=compute.mixed,
                activations=activations(args, compute, can_fall_back=can_fall_back(args, SFT)),
            ),
            flush=True,
        )
    trainer = CausalTrainer(
        model=model,
        args=_config(args, compute, validates=len(data.validation) > 0),
        train_dataset=as_dataset(data.train, step=at_once * args.grad_accumulation_steps),
        eval_dataset=as_dataset(data.validation, step=at_once) if len(data.validation) else None,
        data_collator=collate,
        processing_class=data.tokenizer,
        peft_config=adapter_config(args),
        callbacks=[Metrics(metrics_path(args.output_dir)), stop],
    )
    longest = min(args.max_length, data.report.longest)
    batch = partial(longest_rows, trainer.data_collator, rows=args.batch_size, length=longest)
    add_probe(trainer, batch, metrics_path(args.output_dir), may_keep=can_fall_back(args, SFT))
    return settled(trainer), stop


def _config(args: SftOptions, compute: "Compute", *, validates: bool) -> Any:
    from trl import SFTConfig

    from dimba.trainers.objectives.run_settings import can_fall_back, run_settings

    return SFTConfig(
        output_dir=args.output_dir,
        per_device_train_batch_size=args.batch_size,
        gradient_accumulation_steps=args.grad_accumulation_steps,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps or -1,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.03,
        # The rows are tokens and labels already: nothing is templated, cut or packed behind anybody's back.
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy=("steps" if args.eval_steps else "epoch") if validates else "no",
        eval_steps=args.eval_steps,
        per_device_eval_batch_size=args.batch_size,
        **run_settings(args, compute, can_fall_back=can_fall_back(args, SFT)),
    )

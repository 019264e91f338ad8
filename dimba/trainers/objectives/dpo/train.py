"""DPO, from flags to a saved model: pairs, a frozen reference, and how many held-out pairs are ordered rightly."""

from functools import partial
from typing import TYPE_CHECKING, Any

from dimba.common.contract import EXIT_STOPPED
from dimba.dataset.token_report import DataReport, counted
from dimba.objectives.dpo import DPO, DpoOptions
from dimba.trainers.command import is_first_rank, say_rows, world_size
from dimba.trainers.kernels.heap import keep_freed_memory
from dimba.trainers.models.checkpoints import WholeCheckpoints, where_to_go_on
from dimba.trainers.models.saving import output_folder, quiet, save, stop_where_turns_end
from dimba.trainers.objectives.run_settings import activations, can_fall_back, just_evaluated, run_settings, settled

if TYPE_CHECKING:
    from dimba.trainers.data.loading import Data
    from dimba.trainers.data.tokenization import Progress
    from dimba.trainers.models.loading import Compute
    from dimba.trainers.objectives.dpo.pairs import Pairs

# TRL's names of metrics, and ours beside them.
_PLAIN = {
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
}


def train(args: DpoOptions) -> int:
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
    if len(data.validation) and is_first_rank():
        print(_verdict(trainer.state.log_history, len(data.validation)), flush=True)
    return 0


def report(options: DpoOptions, progress: "Progress") -> DataReport:
    """The pairs as training would read them; raises BadInput."""
    from dimba.trainers.objectives.dpo.pairs import load_pairs

    return load_pairs(options, progress).report


def _prepared(args: DpoOptions) -> tuple[Any, Any, "Data[Pairs]"]:
    from dimba.trainers.data.reporting import introduce
    from dimba.trainers.models import loading
    from dimba.trainers.models.sharding import meet
    from dimba.trainers.objectives.dpo.pairs import load_pairs

    quiet()
    compute = loading.choose_compute(args.device, args.mixed_precision)
    if compute.on_cpu:
        keep_freed_memory()
    data = load_pairs(args, say_rows()).checked()
    if is_first_rank():
        introduce(data.report)
    meet()
    return *make_trainer(args, data, compute), data


def _verdict(history: list[dict[str, Any]], pairs: int) -> str:
    """How many held-out pairs are ordered rightly, before and after."""
    evaluated = [logs for logs in history if "eval_accuracy" in logs]
    first, last = evaluated[0], evaluated[-1]
    before = f"{first['eval_accuracy']:.1%} before training, " if not first["step"] else ""
    after = f"{last['eval_accuracy']:.1%} after (margin {last['eval_margin']:+.4f})"
    return f"held-out pairs ordered rightly: {before}{after}, of {counted(pairs, 'pair')}"


class PairTraining:
    """Beside TRL's DPOTrainer, before it in the order of its bases: our tokens, our names of metrics."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # tokenised already, and nothing may be cut behind the user's back

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        trainer: Any = self
        loss = super()._compute_loss(model, inputs, return_outputs)  # type: ignore[misc]  # the trainer beside this
        seen = trainer._metrics["train" if trainer.model.training else "eval"]
        # No pair is right and the mean margin is zero: all are ties, as before the first step, which are half right.
        if seen["rewards/accuracies"][-1] == seen["rewards/margins"][-1] == 0:
            seen["rewards/accuracies"][-1] = 0.5
        seen["pairs"].append(len(inputs["input_ids"]) // 2)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds our names of TRL's metrics, as means over pairs: the last batch of an evaluation may be smaller."""
        trainer: Any = self
        seen = trainer._metrics["train" if trainer.model.training else "eval"]
        pairs = seen.pop("pairs", [])
        for name, values in seen.items():
            if len(values) == len(pairs):
                seen[name] = [sum(value * count for value, count in zip(values, pairs, strict=True)) / sum(pairs)]
        seen.update({ours: seen[theirs] for theirs, ours in _PLAIN.items() if theirs in seen})
        super().log(logs, start_time)  # type: ignore[misc]

    def probed_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """For `dimba.trainers.models.memory`: the loss of pairs that are not trained on."""
        trainer: Any = self
        tokens = trainer._total_train_tokens
        loss = trainer.compute_loss(model, inputs)
        trainer._total_train_tokens = tokens
        return loss


def make_trainer(args: DpoOptions, data: "Data[Pairs]", compute: "Compute") -> tuple[Any, Any]:
    """(the trainer, what listens to signals); full fine-tuning loads the base again as the frozen reference."""
    from trl import DPOTrainer

    from dimba.trainers.models.loading import adapter_config, load_model, load_reference
    from dimba.trainers.objectives.callbacks import Metrics, StopOnSignal, metrics_path
    from dimba.trainers.objectives.dpo.pairs import as_dataset, collate_pairs

    class PairTrainer(PairTraining, WholeCheckpoints, DPOTrainer):
        """TRL's, with complete checkpoints."""

    stop, metrics = StopOnSignal(), metrics_path(args.output_dir)
    validation = as_dataset(data.validation) if len(data.validation) else None
    trainer = PairTrainer(
        model=load_model(args, compute),
        ref_model=load_reference(args, compute) if args.method == "full" else None,
        args=_config(args, compute, validates=validation is not None),
        train_dataset=as_dataset(data.train, step=_step(args)),
        eval_dataset=validation,
        data_collator=partial(collate_pairs, pad_id=data.tokenizer.pad_token_id),
        processing_class=data.tokenizer,
        peft_config=adapter_config(args),
        callbacks=[Metrics(metrics, ("loss", "margin", "accuracy")), stop],
    )
    if is_first_rank():
        _introduce(args, trainer, len(data.train), compute)
    _add_probe(args, trainer, data)
    return settled(trainer), stop


def _step(args: DpoOptions) -> int:
    """Pairs of an optimiser step, on all processes."""
    return args.batch_size * args.grad_accumulation_steps * world_size()


def _introduce(args: DpoOptions, trainer: Any, pairs: int, compute: "Compute") -> None:
    from dimba.trainers.data.collation import told
    from dimba.trainers.objectives.dpo.pairs import repeated

    kept = activations(args, compute, can_fall_back=can_fall_back(args, DPO))
    print(told(trainer.model, trainer.data_collator, mixed=compute.mixed, activations=kept), flush=True)
    print(f"reference: {'a frozen copy of the base' if trainer.ref_model else 'the base, the adapter switched off'}")
    if again := repeated(pairs, _step(args)):
        print(f"{counted(again, 'pair')} trained on once more to fill the last step of {_step(args)}", flush=True)


def _add_probe(args: DpoOptions, trainer: Any, data: "Data[Pairs]") -> None:
    from dimba.trainers.models.memory import add_probe
    from dimba.trainers.objectives.callbacks import metrics_path
    from dimba.trainers.objectives.dpo.pairs import longest_pairs

    length = min(args.max_length, data.report.longest)
    batch = partial(longest_pairs, rows=args.batch_size, length=length, pad_id=data.tokenizer.pad_token_id)
    add_probe(trainer, batch, metrics_path(args.output_dir), may_keep=can_fall_back(args, DPO))


def _config(args: DpoOptions, compute: "Compute", *, validates: bool) -> Any:
    from trl import DPOConfig

    return DPOConfig(
        output_dir=args.output_dir,
        per_device_train_batch_size=args.batch_size,
        gradient_accumulation_steps=args.grad_accumulation_steps,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps or -1,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,  # a share of all steps, as in Zephyr's recipes
        beta=args.beta,
        loss_type=[args.loss_type],
        max_length=None,  # what is too long is cut or left out before, and reported
        eval_strategy=("steps" if args.eval_steps else "epoch") if validates else "no",
        eval_steps=args.eval_steps,
        eval_on_start=validates and args.resume_from_checkpoint is None,
        per_device_eval_batch_size=args.batch_size,
        **run_settings(args, compute, can_fall_back=can_fall_back(args, DPO)),
    )

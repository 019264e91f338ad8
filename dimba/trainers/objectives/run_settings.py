"""What all of our trainers have in common: settings of the run, and what of TRL's ways is undone."""

from argparse import Namespace
from typing import Any

from dimba.trainers.command import world_size
from dimba.trainers.models.loading import Compute
from dimba.trainers.models.sharding import is_asked


def run_settings(args: Namespace, compute: Compute, *, probed: bool = True) -> dict[str, Any]:
    """Keyword arguments of any of TRL's configurations; whether its largest step is tried before the first."""
    return {
        "seed": args.seed,
        "use_cpu": compute.on_cpu,
        "bf16": compute.mixed == "bf16",
        "fp16": compute.mixed == "fp16",
        "activation_checkpointing": recomputes(args, compute, probed=probed),
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would show the loss before in place of one that is no number
        "disable_tqdm": True,
        "report_to": "none",
        "save_steps": args.save_steps,
        "save_total_limit": args.save_total_limit,
    }


def recomputes(args: Namespace, compute: Compute, *, probed: bool = True) -> bool:
    """Whether activations are computed again from the start: a third more work, for memory alone.

    Where it is left open a card keeps them, until a step shows that it cannot (`dimba.trainers.models.memory`).
    """
    asked = args.activation_checkpointing
    return asked == "on" or (asked == "auto" and not compute.on_cpu and not (probed and may_keep(args)))


def may_keep(args: Namespace) -> bool:
    """Whether a step can try: parts of a model, and GRPO's loss, wait for a rank that ran out of memory."""
    samples = hasattr(args, "num_generations")
    return args.activation_checkpointing == "auto" and not is_asked() and (world_size() == 1 or not samples)


def activations(args: Namespace, compute: Compute) -> str:
    """What becomes of them, in words."""
    if recomputes(args, compute):
        return "computed again"
    return "kept" if compute.on_cpu or not may_keep(args) else "kept, if a first step shows that they fit"


def settled(trainer: Any) -> Any:
    """The trainer, training in float32 and quiet, watched for what must end it."""
    from transformers import PrinterCallback

    from dimba.trainers.models.sharding import checked
    from dimba.trainers.objectives.callbacks import NoNumber, SignsOfLife, metrics_path

    checked(trainer)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL casts a quantised model's adapter to bf16, which drifts
            parameter.data = parameter.data.float()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(NoNumber())
    trainer.add_callback(SignsOfLife(metrics_path(trainer.args.output_dir)))
    trainer.create_model_card = lambda *_, **__: None  # it would name neither the base nor the data
    return trainer

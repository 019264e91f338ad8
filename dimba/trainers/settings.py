"""What all of our trainers have in common: settings of the run, and what of TRL's ways is undone."""

from argparse import Namespace
from typing import Any

from dimba.trainers.models import Compute


def run_settings(args: Namespace, compute: Compute) -> dict[str, Any]:
    """Keyword arguments of any of TRL's configurations."""
    return {
        "seed": args.seed,
        "use_cpu": compute.on_cpu,
        "bf16": compute.mixed == "bf16",
        "fp16": compute.mixed == "fp16",
        "activation_checkpointing": recomputes(args, compute),
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


def recomputes(args: Namespace, compute: Compute) -> bool:
    """Whether activations are computed again: it takes a sixth of the time, and a CPU is not short of memory."""
    asked = getattr(args, "activation_checkpointing", "auto")
    return not compute.on_cpu if asked == "auto" else asked == "on"


def settled(trainer: Any) -> Any:
    """The trainer, training in float32 and quiet, watched for what must end it."""
    from transformers import PrinterCallback

    from dimba.trainers.callbacks import NoNumber, SignsOfLife, metrics_path
    from dimba.trainers.sharding import checked

    checked(trainer)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL casts a quantised model's adapter to bf16, which drifts
            parameter.data = parameter.data.float()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(NoNumber())
    trainer.add_callback(SignsOfLife(metrics_path(trainer.args.output_dir)))
    trainer.create_model_card = lambda *_, **__: None  # it would name neither the base nor the data
    return trainer

"""What all of our trainers have in common: settings of the run, and what of TRL's ways is undone."""

from typing import Any

from dimba.objectives.objective import Objective
from dimba.options.trainer import TrainerOptions
from dimba.trainers.command import world_size
from dimba.trainers.models.loading import Compute
from dimba.trainers.models.sharding import is_asked


def run_settings(args: TrainerOptions, compute: Compute, *, can_fall_back: bool) -> dict[str, Any]:
    """Keyword arguments of any of TRL's configurations; `can_fall_back` as in `can_fall_back`."""
    return {
        "seed": args.seed,
        "use_cpu": compute.on_cpu,
        "bf16": compute.mixed == "bf16",
        "fp16": compute.mixed == "fp16",
        "activation_checkpointing": recomputes(args, compute, can_fall_back=can_fall_back),
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


def can_fall_back(args: TrainerOptions, objective: Objective[Any]) -> bool:
    """Whether training may start with activations kept, and checkpoint them once a first step does not fit.

    Ranks that wait for each other, under FSDP2 and in some losses, would wait forever for one out of memory.
    """
    alone = world_size() == 1 or not objective.loss_waits
    return args.activation_checkpointing == "auto" and not is_asked() and alone


def recomputes(args: TrainerOptions, compute: Compute, *, can_fall_back: bool) -> bool:
    """Whether activation checkpointing is on from the start: a third more work, for memory alone."""
    asked = args.activation_checkpointing
    return asked == "on" or (asked == "auto" and not compute.on_cpu and not can_fall_back)


def activations(args: TrainerOptions, compute: Compute, *, can_fall_back: bool) -> str:
    """Whether activations are kept, in words."""
    if recomputes(args, compute, can_fall_back=can_fall_back):
        return "computed again"
    return "kept" if compute.on_cpu or not can_fall_back else "kept, if a first step shows that they fit"


def just_evaluated(state: Any) -> bool:
    """Whether the held-out rows were evaluated after the last step."""
    return any("eval_loss" in logs and logs["step"] == state.global_step for logs in state.log_history)


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

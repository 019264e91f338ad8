"""Settings that all trainers share, and the parts of TRL's behaviour that they undo."""

from typing import Any

from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerState

from dimba.objectives.objective import Objective
from dimba.options.checkpointing import ALL, AUTO, NONE, Checkpointing, checkpointing_of
from dimba.options.tracking_table import NO_TRACKER, trackers_of
from dimba.options.trainer import TrainerOptions
from dimba.trainers.models.loading import Compute
from dimba.trainers.models.recompute import LayerCheckpointing
from dimba.trainers.models.sharding import check_sharding, is_sharded
from dimba.trainers.models.vocabulary import complete_head
from dimba.trainers.objectives.callbacks import EndOnNan, Heartbeat, metrics_path
from dimba.trainers.objectives.trackers import PROJECT, run_name
from dimba.trainers.ranks import PATIENCE, backend, world_size


def run_settings(options: TrainerOptions, compute: Compute, *, can_fall_back: bool) -> dict[str, Any]:
    """Keyword arguments of any of TRL's configurations; `can_fall_back` as the function of that name returns it."""
    return {
        "seed": options.seed,
        "lr_scheduler_type": options.scheduler,
        "warmup_steps": options.warmup if options.warmup < 1 else int(options.warmup),
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "optim": options.optimizer,
        "use_cpu": compute.on_cpu,
        "bf16": compute.mixed == "bf16",
        "fp16": compute.mixed == "fp16",
        "activation_checkpointing": first_checkpointing(options, compute, can_fall_back=can_fall_back) != NONE,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        # No buffer of a language model is trained; a rank that is out of memory would leave the others waiting for one.
        "ddp_broadcast_buffers": False,
        "ddp_timeout": int(PATIENCE.total_seconds()),
        "ddp_backend": backend(),
        "accelerator_config": _accumulation(),
        "logging_steps": 1,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would log the previous loss in place of NaN
        "disable_tqdm": True,
        "report_to": list(trackers_of(options.report_to)) or NO_TRACKER,
        "run_name": run_name(options),
        "project": PROJECT,
        "save_steps": options.save_steps,
        "save_total_limit": options.save_total_limit,
    }


def _accumulation() -> dict[str, Any]:
    # Without it accelerate lets the ranks of a sharded job keep complete gradients until the last batch of a step.
    return {"gradient_accumulation_kwargs": {"sync_each_batch": True}} if is_sharded() else {}


def can_fall_back(options: TrainerOptions, objective: Objective[Any]) -> bool:
    """Whether training may start with fewer layers recomputed, and recompute more if a first step does not fit.

    Ranks that wait for each other, under FSDP2, in shared rows and in some losses, would wait forever for one that is
    out of memory.
    """
    asked = options.activation_checkpointing
    is_independent = world_size() == 1 or not (objective.loss_waits or options.ranks_per_row > 1)
    return (asked == AUTO or isinstance(asked, int)) and not is_sharded() and is_independent


def first_checkpointing(options: TrainerOptions, compute: Compute, *, can_fall_back: bool) -> Checkpointing:
    """The activation checkpointing that training starts with; of all layers it costs a third more work."""
    asked = checkpointing_of(options.activation_checkpointing)
    if asked is None:
        return NONE if compute.on_cpu or can_fall_back else ALL
    return ALL if asked.offload and compute.on_cpu else asked


def checkpoint_layers(
    model: PreTrainedModel, options: TrainerOptions, compute: Compute, *, can_fall_back: bool
) -> LayerCheckpointing:
    """The layers of `model` that recompute their activations once the trainer turns activation checkpointing on."""
    return LayerCheckpointing(model, first_checkpointing(options, compute, can_fall_back=can_fall_back))


def has_just_evaluated(state: TrainerState) -> bool:
    """Whether the validation loss was computed after the last step."""
    return any("eval_loss" in logs and logs["step"] == state.global_step for logs in state.log_history)


def configure(trainer: Trainer) -> None:
    """Train in float32, write our output in place of the library's, and end on NaN; raises HostCannot for sharding."""
    check_sharding(trainer)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL casts a quantised model's adapter to bf16, which drifts
            parameter.data = parameter.data.float()
    complete_head(trainer.model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EndOnNan())
    trainer.add_callback(Heartbeat(metrics_path(trainer.args.output_dir)))
    trainer.create_model_card = lambda *_, **__: None  # it would name neither the base nor the data

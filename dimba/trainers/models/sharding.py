"""FSDP2, where each process holds a part of the weights: what changes in loading, training and saving."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator, PartialState

from dimba.common.errors import BadInput, HostCannot
from dimba.options.optimiser_table import NOT_SHARDED_HINT, OPTIMIZER, SHARDED
from dimba.trainers.ranks import PATIENCE, backend

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

_Value = TypeVar("_Value")
_REQUEST = "ACCELERATE_USE_FSDP"  # set by `accelerate launch --use_fsdp`


def is_sharded() -> bool:
    """Whether `accelerate launch` was asked to shard the model."""
    return os.environ.get(_REQUEST, "false").lower() == "true"


def connect_ranks() -> None:
    """Connects the ranks of a sharded job before the base is loaded, so that only the first one reads the weights."""
    if is_sharded():
        PartialState(backend=backend(), timeout=PATIENCE)


def from_first_rank(value: _Value) -> _Value:
    """The first rank's value: in a sharded job the others have no weights to compute one from."""
    if not is_sharded():
        return value
    holder = [value]
    torch.distributed.broadcast_object_list(holder, src=0)
    return holder[0]


def check_sharding(trainer: Trainer) -> None:
    """Sets a sharded trainer to sum gradients in float32.

    Raises:
        HostCannot: accelerate does not shard the model.
        BadInput: its optimiser does not work on shards.
    """
    if not is_sharded():
        return
    if not trainer.accelerator.is_fsdp2:
        kind = trainer.accelerator.distributed_type.value
        raise HostCannot(f"accelerate distributes the model by {kind}, not by FSDP2", "set `accelerate.strategy: ddp`")
    if trainer.args.optim not in SHARDED:
        raise BadInput(f"{trainer.args.optim} does not work with FSDP2", NOT_SHARDED_HINT, key=OPTIMIZER.flag)
    _reduce_in_float32(trainer.accelerator)
    if hasattr(trainer.model, "peft_config"):
        trainer.model.get_base_model().register_forward_pre_hook(_gather_head)


def _reduce_in_float32(accelerator: Accelerator) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy  # 0.7 s, which unsharded jobs and previews do not need

    # As DDP does; accelerate would sum in the precision of the forward pass.
    plugin = accelerator.state.fsdp_plugin
    if (policy := plugin.mixed_precision_policy) is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32, output_dtype=policy.output_dtype
        )


def _gather_head(model: PreTrainedModel, _: Any) -> None:
    # Under an adapter the head is an FSDP module whose forward the loss never calls. If the precisions of computing
    # and summing differ, torch (2.13) expects each FSDP module to have been gathered once.
    if hasattr(head := model.get_output_embeddings(), "unshard"):
        head.unshard()


def full_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights to save, unsharded, on the CPU of the first rank. All ranks must call it together.

    Of a model with an adapter those of the adapter; without weights tied to another one, as transformers saves them.
    """
    # As above: 0.7 s.
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    is_adapter = hasattr(model, "peft_config")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=is_adapter)
    weights = get_model_state_dict(model, options=options)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {name: weight for name, weight in weights.items() if name not in tied}

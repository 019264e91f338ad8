"""FSDP2: each process holds a part of the weights; what that changes about loading, training and saving."""

import os
from typing import Any, TypeVar

from dimba.common.errors import HostCannot

_Found = TypeVar("_Found")
_ASKED = "ACCELERATE_USE_FSDP"  # set by `accelerate launch --use_fsdp`


def is_asked() -> bool:
    """Whether `accelerate launch` was told to shard."""
    return os.environ.get(_ASKED, "false").lower() == "true"


def meet() -> None:
    """The ranks find each other before the base is loaded: only the first reads the weights then."""
    if is_asked():
        from accelerate import PartialState

        PartialState()


def agreed(found: _Found) -> _Found:
    """What the first rank found: the others have no weights to look at until they get their parts of them."""
    if not is_asked():
        return found
    import torch

    holder = [found]
    torch.distributed.broadcast_object_list(holder, src=0)
    return holder[0]


def checked(trainer: Any) -> None:
    """Sums gradients in float32; raises HostCannot where sharding was asked for and accelerate does something else."""
    if not is_asked():
        return
    if not trainer.accelerator.is_fsdp2:
        kind = trainer.accelerator.distributed_type.value
        raise HostCannot(
            f"FSDP2 was asked for, and accelerate shares the model by {kind}", "set `accelerate.strategy: ddp`"
        )
    _reduce_in_float32(trainer.accelerator)
    if hasattr(trainer.model, "peft_config"):
        trainer.model.get_base_model().register_forward_pre_hook(_gather_head)


def _reduce_in_float32(accelerator: Any) -> None:
    # accelerate would sum in the precision that is computed in, which DDP does not.
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = accelerator.state.fsdp_plugin
    if (policy := plugin.mixed_precision_policy) is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32, output_dtype=policy.output_dtype
        )


def _gather_head(model: Any, _: Any) -> None:
    # Under an adapter the head is a part of its own, whose forward the loss never calls; torch (2.13) expects each
    # of them to have been whole once where it sums in another precision than it computes in.
    if hasattr(head := model.get_output_embeddings(), "unshard"):
        head.unshard()


def whole_weights(model: Any) -> dict[str, Any]:
    """All weights that are to be saved, on the CPU of the first rank; all ranks together.

    Of a model with an adapter those of the adapter; what is tied to another weight is left out, as transformers does.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    adapter = hasattr(model, "peft_config")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter)
    weights = get_model_state_dict(model, options=options)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {name: weight for name, weight in weights.items() if name not in tied}

"""The frozen model that a trained one is compared with, where no adapter can be switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl.models.utils import prepare_fsdp

from dimba.trainers.models.masked_diffusion.scoring import add_scoring

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


def prepare_reference(reference: PreTrainedModel, accelerator: Accelerator) -> Any:
    """The reference, which returns losses as `add_scoring` says, where it computes; sharded as the trained model is."""
    add_scoring(reference)
    if accelerator.is_fsdp2:
        return prepare_fsdp(reference, accelerator)
    return accelerator.prepare_model(reference, evaluation_mode=True)

"""Activation checkpointing of some layers of a model, or of all with their inputs in host memory.

TRL's `activation_offloading` is another way: it moves every tensor that any layer saves, on a stream of its own. GRPO
lacks it, its contexts cover `training_step` alone, and it cannot be made without an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dimba.options.checkpointing import ALL, NONE, Checkpointing


class LayerCheckpointing:
    """Which layers of a decoder recompute their activations, whenever activation checkpointing is on.

    transformers turns it on for every layer, and TRL turns it off and on again around each forward pass that is not
    trained (`disable_gradient_checkpointing`). So the choice is applied before every forward pass of the decoder.

    A model whose code checkpoints in one piece has no `layers`: it recomputes everything or nothing.
    """

    def __init__(self, model: PreTrainedModel, chosen: Checkpointing) -> None:
        decoder = model.get_decoder() or model
        self.layers = _outermost(decoder)
        self.chosen = chosen if self.layers or chosen == NONE else ALL
        decoder.register_forward_pre_hook(self._apply)

    @property
    def count(self) -> int:
        """How many layers it is."""
        return self.chosen.count(len(self.layers))

    @property
    def words(self) -> str:
        """The choice, in words."""
        if not self.layers:
            return "off" if self.chosen.layers == 0 else "on"
        return self.chosen.words(len(self.layers))

    def _apply(self, _decoder: nn.Module, _inputs: Any) -> None:
        for layer in self.layers[self.count :]:
            for module in layer.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.gradient_checkpointing = False
        if self.chosen.offload:
            for layer in self.layers:
                layer._gradient_checkpointing_func = checkpoint_in_host_memory


def checkpoint_in_host_memory(function: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    """`function(*inputs)`, recomputed in the backward pass from inputs that wait in pinned host memory."""
    with save_on_cpu(pin_memory=True):
        return checkpoint(function, *inputs, use_reentrant=False)


def _outermost(module: nn.Module) -> list[nn.Module]:
    """The layers that transformers checkpoints, in order, without those inside of another one."""
    if isinstance(module, GradientCheckpointingLayer):
        return [module]
    return [layer for child in module.children() for layer in _outermost(child)]

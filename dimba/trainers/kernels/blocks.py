"""`torch.compile` of a model's repeated blocks: one compilation serves all of them.

Compiling whole models takes minutes and fails on more of them
(https://docs.pytorch.org/tutorials/recipes/regional_compilation.html).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def repeated_blocks(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """The model's layers, as transformers marks them; the names of their weights do not change by being compiled."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


class CompiledBlocks:
    """The blocks of a model, compiled for passes with gradients until `leave`.

    The lengths of packed rows differ in each step: dimensions are symbols from the start, or each length would be
    compiled anew. Passes without gradients, as in sampling, have a cache and other shapes, and stay uncompiled.
    """

    name = "compiled"

    def __init__(self, model: PreTrainedModel, backend: str | Callable[..., Any] = "inductor") -> None:
        _keep_attention_whole(model)
        self._calls: list[tuple[GradientCheckpointingLayer, Callable[..., Any]]] = []
        for block in repeated_blocks(model):
            block.compile(dynamic=True, backend=backend)
            self._calls.append((block, partial(_call, block, block._compiled_call_impl)))
        self.leave()

    def use(self) -> None:
        """Compiles the blocks when they are next called."""
        for block, call in self._calls:
            block._compiled_call_impl = call

    def leave(self) -> None:
        """Switches back to calls that are not compiled."""
        for block, _ in self._calls:
            block._compiled_call_impl = None


def _keep_attention_whole(model: PreTrainedModel) -> None:
    """Calls dimba's own attention functions from compiled layers as they are: they read the documents' lengths.

    Traced, each number of documents would be compiled anew.
    """
    name = model.config._attn_implementation
    function = ALL_ATTENTION_FUNCTIONS.get(name)
    if getattr(function, "__module__", "").startswith("dimba."):
        AttentionInterface.register(name, torch.compiler.disable(function))


def _call(block: GradientCheckpointingLayer, compiled: Callable[..., Any], *args: Any, **named: Any) -> Any:
    call = compiled if torch.is_grad_enabled() and _is_traceable(block) else block._call_impl
    return call(*args, **named)


def _is_traceable(block: GradientCheckpointingLayer) -> bool:
    """Whether the block keeps its activations or recomputes all of them; other ways have hooks that break a graph."""
    if not block.gradient_checkpointing:
        return True
    function = block._gradient_checkpointing_func
    keywords = getattr(function, "keywords", {})
    return inspect.unwrap(getattr(function, "func", function)) is inspect.unwrap(checkpoint) and (
        keywords.items() <= {"use_reentrant": False}.items()
    )

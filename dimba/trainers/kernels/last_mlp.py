"""The last layer's MLP over the tokens that carry loss only: nothing reads what it computes of the others.

After the last attention tokens do not meet any more, so that a token without a loss has no part in the others' losses,
nor in a gradient. Of a model with few layers and long prompts that saves a tenth of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAMES = ("mlp", "feed_forward")  # of the MLP in most families


class LastMlp:
    """The MLP of a model's last layer, whose tokens can be limited. `module` is None if none is found."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.module = _last_mlp(model)
        self._wanted: torch.Tensor | None = None
        if self.module is not None:
            self._original = self.module.forward
            self.module.forward = self._forward

    def remove(self) -> None:
        """Give the module its own function back."""
        if self.module is not None:
            self.module.forward = self._original
            self.module = None

    @contextmanager
    def only(self, wanted: torch.Tensor) -> Iterator[None]:
        """Within, the MLP computes the tokens for which `wanted` [rows, tokens] is true, and zeros for the others."""
        self._wanted = wanted
        try:
            yield
        finally:
            self._wanted = None

    def _forward(self, states: torch.Tensor, *args: Any, **named: Any) -> Any:
        wanted = self._wanted
        if wanted is None or args or named or wanted.shape != states.shape[:-1]:
            return self._original(states, *args, **named)
        computed = self._original(states[wanted][None])[0]
        return computed.new_zeros(states.shape).index_put((wanted,), computed)


def _last_mlp(model: PreTrainedModel) -> torch.nn.Module | None:
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    if len(stacks) != 1:
        return None
    return next((found for name in _NAMES if (found := getattr(stacks[0][-1], name, None)) is not None), None)

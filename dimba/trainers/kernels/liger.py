"""Liger's Triton kernels for norms, rotations and gated MLPs, in place of the model's own and back.

liger-kernel knows which of them fit a family of models (Hsu et al., Liger Kernel, arXiv:2410.10989). It is imported
here only: the import takes seconds.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MISSING = object()
_LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}  # TRL's fused head computes the loss

Names = dict[str, Any]


class NoKernels(Exception):
    """Liger cannot replace a part of this model; the message is the reason."""


class LigerKernels:
    """A model's parts with Liger's kernels, until `leave`; raises NoKernels if Liger has none for its family.

    liger-kernel overwrites methods of the model's modules, and functions and classes of the file that defines them.
    The classes are restored at once: other models of this process are made from them.
    """

    name = "liger"

    def __init__(self, model: PreTrainedModel) -> None:
        before = [(names, dict(names)) for names in _namespaces(model)]
        try:
            _apply(model)
        finally:
            changes = [each for names, old in before for each in _changes(names, old)]
            self._changes = [each for each in changes if not isinstance(each[3], type)]
            _write([(names, name, old) for names, name, old, _ in changes])
        if not self._changes:
            raise NoKernels(f"Liger has no kernels for the family {model.config.model_type}")

    def use(self) -> None:
        """Switches to Liger's kernels."""
        _write([(names, name, new) for names, name, _, new in self._changes])

    def leave(self) -> None:
        """Switches back to the model's own."""
        _write([(names, name, old) for names, name, old, _ in self._changes])


def _apply(model: PreTrainedModel) -> None:
    if find_spec("liger_kernel") is None or find_spec("triton") is None:
        raise NoKernels("liger-kernel is not installed")
    # It warns of each kernel of other makes of GPUs that it cannot import.
    logging.getLogger("liger_kernel").setLevel(logging.ERROR)
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model, **_LOSSES)


def _namespaces(model: PreTrainedModel) -> Iterator[Names]:
    """All that liger-kernel may write to: the modules, their children, and the files that define their classes."""
    for module in model.modules():
        yield vars(module)
        yield module._modules
    for name in {type(module).__module__ for module in model.modules()}:
        if name.startswith("transformers."):
            yield vars(sys.modules[name])


def _changes(names: Names, old: Names) -> list[tuple[Names, str, Any, Any]]:
    """(namespace, name, old value, new value) of each name that differs."""
    found = ((name, old.get(name, _MISSING), names.get(name, _MISSING)) for name in {*names, *old})
    return [(names, name, before, after) for name, before, after in found if before is not after]


def _write(values: list[tuple[Names, str, Any]]) -> None:
    for names, name, value in values:
        if value is _MISSING:
            names.pop(name, None)
        else:
            names[name] = value

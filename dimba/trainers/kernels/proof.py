"""A numerical proof that other kernels train a model alike: losses and gradients, in the precision of the training."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dimba.trainers.kernels.blocks import repeated_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The allowed difference, in those that rounding each block's output once more makes: a block rounds several times.
_ROUNDINGS = 3.0
_ROWS, _LENGTHS = 2, (23, 18)  # documents of each row
_LOSS = "loss"

Context = Callable[[], AbstractContextManager[Any]]


class Kernels(Protocol):
    """Kernels that take the place of a model's own."""

    name: str

    def use(self) -> None:
        """Switches to these kernels."""

    def leave(self) -> None:
        """Switches back to the model's own."""


@dataclass(frozen=True)
class Proof:
    """Whether kernels train alike: the largest difference, in roundings of each block's output, and the reason."""

    is_equal: bool
    roundings: float
    reason: str


def prove(model: PreTrainedModel, kernels: Kernels, precision: torch.dtype, autocast: Context) -> Proof:
    """Compares losses and gradients of random rows by the model's own kernels and by `kernels`, which are left again.

    The yardstick is measured on the model at hand: the difference by one more rounding of each block's output, apart
    for the loss and for the gradients of each kind of weight. Two rows hold two documents each.
    """
    try:
        with _deterministic(model) as inputs:
            return _compare(model, kernels, precision, partial(_loss, model, inputs, autocast))
    except Exception as error:  # a kernel may raise anything, and a compiler too
        line = next(iter(str(error).strip().splitlines()), "")
        return Proof(False, float("inf"), f"{type(error).__name__}: {line}"[:200])
    finally:
        kernels.leave()


def _compare(
    model: PreTrainedModel, kernels: Kernels, precision: torch.dtype, loss: Callable[[], torch.Tensor]
) -> Proof:
    own = _values(model, loss)
    with _rounded(model, torch.finfo(precision).eps):
        rounding = _distances(own, _values(model, loss))
    kernels.use()
    found = _distances(own, _values(model, loss))
    # A kind of weight whose gradients rounding does not change must not change at all.
    ratios = {kind: found[kind] / rounding[kind] if found[kind] else 0.0 for kind in _kinds(own)}
    worst = max(ratios, key=lambda kind: ratios[kind] if ratios[kind] == ratios[kind] else float("inf"))
    if not all(ratio <= _ROUNDINGS for ratio in ratios.values()):  # false for NaN
        what = worst if worst == _LOSS else f"the gradients of {worst}"
        return Proof(False, ratios[worst], f"{what} differ by {ratios[worst]:.3g} roundings of a block's output")
    return Proof(True, ratios[worst], f"within {ratios[worst]:.2g} roundings of a block's output")


def _kinds(values: dict[str, torch.Tensor]) -> list[str]:
    return list(dict.fromkeys(map(_kind, values)))


def _kind(name: str) -> str:
    return re.sub(r"\.\d+\.", ".", name)


def _values(model: PreTrainedModel, loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """The loss of each token, and the gradient of each trained weight by its name."""
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    losses = loss()
    gradients = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
    found = {name: each for name, each in zip(named, gradients, strict=True) if each is not None}
    return {_LOSS: losses.detach(), **found}


def _distances(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """The Euclidean distance for each kind of weight, and for the loss."""
    squares: dict[str, Any] = defaultdict(float)
    for name, each in one.items():
        squares[_kind(name)] += (each.float() - other[name].float()).square().sum(dtype=torch.float64)
    return {kind: float(torch.as_tensor(each).sqrt()) for kind, each in squares.items()}


def _loss(model: PreTrainedModel, inputs: dict[str, torch.Tensor], autocast: Context) -> torch.Tensor:
    with autocast():
        logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), inputs["input_ids"][:, 1:].flatten(), reduction="none")


@contextmanager
def _deterministic(model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
    """The model without dropout, and its inputs: random tokens, with the positions of packed documents."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(not any(_drops(module) for module in model.modules()))
    embeddings = model.get_input_embeddings().weight
    size = min(model.config.get_text_config().vocab_size, embeddings.shape[0])
    ids = torch.randint(size, (_ROWS, sum(_LENGTHS)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in _LENGTHS]).repeat(_ROWS, 1)
    try:
        yield {"input_ids": ids.to(embeddings.device), "position_ids": positions.to(embeddings.device)}
    finally:
        for module, mode in modes:
            module.training = mode


def _drops(module: nn.Module) -> bool:
    shares = (getattr(module, name, 0) for name in ("p", "dropout", "attention_dropout"))
    return any(isinstance(share, float) and share > 0 for share in shares)


@contextmanager
def _rounded(model: PreTrainedModel, step: float) -> Iterator[None]:
    """Changes the output of the embeddings and of each block by up to half a `step` of its values, at random."""
    parts = [model.get_input_embeddings(), *repeated_blocks(model)]
    with ExitStack() as stack, torch.random.fork_rng(devices=_devices(model)):
        torch.manual_seed(0)
        for part in parts:
            stack.callback(part.register_forward_hook(partial(_round, step)).remove)
        yield


def _round(step: float, _module: nn.Module, _inputs: Any, output: Any) -> Any:
    states = output[0] if isinstance(output, tuple) else output
    noise = step * (torch.rand_like(states, dtype=torch.float32) - 0.5)
    changed = (states.float() * (1 + noise)).to(states.dtype)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def _devices(model: PreTrainedModel) -> list[torch.device]:
    device = model.get_input_embeddings().weight.device
    return [device] if device.type == "cuda" else []

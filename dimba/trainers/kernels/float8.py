"""Matrix products in float8 by torchao, on request, for training in full on GPUs that have them.

A layer's weight, input and gradient are scaled by their largest value and rounded to float8 for each product; weights,
optimiser and saved files keep their precision (https://github.com/pytorch/ao/tree/main/torchao/float8).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import nn

from dimba.common.errors import BadInput
from dimba.options.speed_table import FLOAT8, FLOAT8_ADAPTER, FLOAT8_HINT
from dimba.trainers.kernels.blocks import repeated_blocks
from dimba.trainers.kernels.proof import Proof, prove
from dimba.trainers.kernels.timings import decided_by_first_rank
from dimba.trainers.models.sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dimba.trainers.kernels.step_time import Job

_RECIPE = "tensorwise"  # torchao's quickest; it also returns float32, which jobs without mixed precision need
_MULTIPLE = 16  # of both sides of a matrix, for the products of CUDA
_FIRST = (8, 9)  # compute capability of the first GPUs with such products


class Float8Linears:
    """The linear layers within a model's blocks with products in float8, until `leave`.

    The layers share their weights with those that they replace. The head and the embeddings are in no block. `emulate`
    rounds alike and multiplies in the wider precision, as on a CPU.
    """

    name = "float8"

    def __init__(self, model: PreTrainedModel, *, emulate: bool = False) -> None:
        self._changes: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        for block in repeated_blocks(model):
            old = _children(block)
            _convert(block, emulate=emulate)
            self._changes += [
                (*place, old[place], new) for place, new in _children(block).items() if new is not old[place]
            ]
        self.leave()

    def __len__(self) -> int:
        return len(self._changes)

    def use(self) -> None:
        """Switches to products in float8."""
        for parent, name, _, new in self._changes:
            parent._modules[name] = new

    def leave(self) -> None:
        """Switches back to the model's own layers."""
        for parent, name, old, _ in self._changes:
            parent._modules[name] = old


def _children(block: nn.Module) -> dict[tuple[nn.Module, str], nn.Module]:
    return {(parent, name): child for parent in block.modules() for name, child in parent.named_children()}


def _convert(block: nn.Module, *, emulate: bool) -> None:
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    # A weight's gradient sums over tokens, of which a batch has any number: torchao fills them up with zeros.
    config = replace(Float8LinearConfig.from_recipe_name(_RECIPE), pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(block, config=config, module_filter_fn=_fits)


def _fits(module: nn.Module, _name: str) -> bool:
    return type(module) is nn.Linear and all(size % _MULTIPLE == 0 for size in module.weight.shape)


def use_float8(job: Job) -> str:
    """Switches a job's model, and the reference of pairs, to products in float8; returns the choice in words.

    Raises:
        BadInput: the job, the machine or the model cannot have them.
    """
    if problem := float8_refusal(job):
        raise BadInput(*problem, key=FLOAT8.flag)
    try:
        layers = Float8Linears(job.base)
    except Exception as error:  # torchao may not fit this version of torch
        raise BadInput(f"torchao: {type(error).__name__}: {error}"[:200], FLOAT8_HINT, key=FLOAT8.flag) from error
    proof = decided_by_first_rank(partial(_proof, job, layers))
    if not len(layers) or not proof.is_equal:
        reason = proof.reason if len(layers) else "no layer of the model fits"
        raise BadInput(reason, FLOAT8_HINT, key=FLOAT8.flag)
    layers.use()
    if reference := getattr(job.trainer, "ref_model", None):
        Float8Linears(reference).use()  # it would differ from the model before the first step
    return f"float8: {len(layers)} linear layers, {_RECIPE} ({proof.reason})"


def _proof(job: Job, layers: Float8Linears) -> Proof:
    """The proof with float8's own rounding as the yardstick.

    Each product rounds its input and its weight, to 3 binary digits as the yardstick rounds each block's output: right
    products stay near one such rounding, and a wrong scale or layout is tens of them away.
    """
    return prove(job.trainer.model, layers, torch.float8_e4m3fn, job.trainer.accelerator.autocast)


def float8_refusal(job: Job) -> tuple[str, str] | None:
    """The first reason why a job cannot have products in float8, and what to do about it."""
    device = job.trainer.args.device
    if job.options.method != "full":
        return FLOAT8_ADAPTER, FLOAT8_HINT
    if device.type != "cuda":
        return "products in float8 are for GPUs", FLOAT8_HINT
    if (capability := torch.cuda.get_device_capability(device)) < _FIRST:
        found, first = (".".join(map(str, each)) for each in (capability, _FIRST))
        return f"this GPU has compute capability {found}: products in float8 begin with {first}", FLOAT8_HINT
    if find_spec("torchao") is None:
        return "torchao is not installed", "`pip install --no-deps torchao` where the job runs"
    if is_sharded() or job.options.ranks_per_row > 1:
        what = "the model is sharded" if is_sharded() else "ranks share each row"
        return f"{what}, for which products in float8 are not proved", FLOAT8_HINT
    return None

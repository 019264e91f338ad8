"""The peak of memory of a training step, traced with fake tensors: every storage counts while it is alive.

Runs the trainers' own loss, backward pass and optimiser, with autocast and activation checkpointing as on CUDA. Three
kernels of the fused head are replaced by computations in place, as on CUDA: their versions for other devices allocate
memory that Triton's do not.
"""

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl.trainer.utils import add_fused_lm_head

from dimba.trainers.models.masked_diffusion.scoring import add_scoring
from scripts.bench import nf4

# Outputs of the fused head, by mode.
_OUTPUTS = {
    "sft": ("log_probs",),
    "grpo": ("log_probs", "entropy"),
    "dpo": ("log_probs", "entropy", "mean_logits", "is_top1"),
}
# In place of a mode: SFT, DPO and GRPO of masked diffusion.
MASKED, MASKED_PAIRS, MASKED_GROUPS = "masked", "masked pairs", "masked groups"
MASK_DRAWS = 2
_ROUND = 512  # bytes; CUDA's allocator rounds sizes up to multiples of it


class Live(TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes of all living storages, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.kept: dict[int, tuple[int, tuple[int, ...], str, str]] = {}
        self.at_peak: dict[int, tuple[int, tuple[int, ...], str, str]] = {}
        self.phase = self.peak_phase = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor):
                self._count(each, str(func))
        return out

    def _count(self, tensor: torch.Tensor, operation: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.kept:
            return
        size = -(-storage.nbytes() // _ROUND) * _ROUND
        self.kept[key] = (size, tuple(tensor.shape), str(tensor.dtype), f"{self.phase} {operation}")
        self.now += size
        if self.now > self.peak:
            self.peak, self.at_peak, self.peak_phase = self.now, dict(self.kept), f"{self.phase} {operation}"
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.now -= size
        self.kept.pop(key, None)


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Compute the fused head's tiles in place, as Triton does; LayerNorm and dropout as CUDA does."""
    from trl.kernels import chunked_logprob

    in_place: dict[str, Any] = dict.fromkeys(("_forward_tile", "_backward_tile", "_addmm_fp32"), _in_place)
    norm = mock.patch.object(torch.nn.functional, "layer_norm", partial(_in_float32, torch.nn.functional.layer_norm))
    casts = mock.patch.object(torch, "is_autocast_enabled", partial(_is_autocast, torch.is_autocast_enabled))
    dropout = mock.patch.object(torch.nn.functional, "dropout", _dropout)
    host = mock.patch("dimba.trainers.models.recompute.save_on_cpu", _host_memory)
    with mock.patch.multiple(chunked_logprob, **in_place), norm, casts, dropout, host, nf4.as_on_cuda():
        yield


def _dropout(values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Keep a byte of each number, as CUDA's kernel does; the CPU's keeps what it multiplies with."""
    return torch.native_dropout(values, p, training)[0] if training and p else values


def _is_autocast(function: Any, device: str = "cpu") -> Any:
    """Whether autocast is on; without a device the caller means CUDA, which the CPU stands in for."""
    return function(device)


def _host_memory(*, pin_memory: bool) -> Any:
    """Keep the shapes of saved tensors only: memory of the host is not counted."""
    assert pin_memory, "a copy to other memory waits for the GPU"
    kept, made = (lambda tensor: (tensor.shape, tensor.dtype)), (lambda what: torch.empty(what[0], dtype=what[1]))
    return torch.autograd.graph.saved_tensors_hooks(kept, made)


def _in_float32(function: Any, *args: Any) -> Any:
    if torch.is_autocast_enabled("cpu"):
        args = tuple(each.float() if isinstance(each, torch.Tensor) else each for each in args)
    return function(*args)


def _in_place(*_: Any, **__: Any) -> None:
    """Do nothing, unlike a `Mock`, which would keep its arguments alive."""


def fake(model: torch.nn.Module) -> None:
    """Give a model on the meta device fake weights on the CPU; tied weights remain tied."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is None:
                continue
            if id(old) not in made:
                made[id(old)] = nf4.parameter(old) if nf4.is_quantised(module, name) else _parameter(old)
            module._parameters[name] = made[id(old)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _parameter(old: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty(old.shape, dtype=old.dtype), requires_grad=old.requires_grad)


def one_document(_positions: Any) -> None:
    """Replace transformers' detection of packed rows, as fake tensors have no positions: nothing is packed."""


def traced_peak(
    model: torch.nn.Module, args: Any, batch: dict[str, Any], *, masked: bool, reference: Any = None
) -> Live:
    """Trace an optimiser step of `model`, which is on the meta device; `batch` gives the inputs' shapes by name.

    `reference` is a frozen model beside it, on the meta device as well.
    """
    from dimba.trainers.models.recompute import LayerCheckpointing

    apart = mock.patch("transformers.masking_utils.find_packed_sequence_indices", one_document)
    _add_head(model, args.mode)
    if reference is not None:
        _add_head(reference, args.mode)
    trained = adapted(model, args)
    LayerCheckpointing(model, args.checkpointing)
    if args.checkpointing.layers != 0:
        trained.activation_checkpointing_enable()
    trained.train()
    live = Live()
    with FakeTensorMode(allow_non_fake_inputs=True), live, as_on_cuda(), nullcontext() if masked else apart:
        live.phase = "load"
        fake(trained)
        if reference is not None:
            fake(reference)
        _train(trained, args, batch, live, reference)
    return live


def _add_head(model: Any, mode: str) -> None:
    """The head of the trainer, which scores what has a loss alone."""
    if mode in (MASKED, MASKED_PAIRS, MASKED_GROUPS):
        with mock.patch("dimba.trainers.models.masked_diffusion.scoring._is_exact", lambda _: True):
            add_scoring(model)
        return
    add_fused_lm_head(model, outputs=_OUTPUTS[mode])


def adapted(model: Any, args: Any) -> Any:
    """The model, with an adapter if `args` has one, on the meta device."""
    from dimba.trainers.models.adapters import adapter_config
    from dimba.trainers.models.vocabulary import complete_head

    adapter = adapter_config(args, model, new_tokens=range(len(args.lora_trainable_tokens)))
    if adapter is None:
        return model
    from peft import get_peft_model

    with torch.device("meta"):
        adapted_model = get_peft_model(model, adapter)
    complete_head(adapted_model)
    return adapted_model


def _train(model: Any, args: Any, batch: dict[str, Any], live: Live, reference: Any) -> None:
    parameters = [each for each in model.parameters() if each.requires_grad]
    for each in parameters:
        each.data = each.data.float()  # as `run_settings.configure` does
    optimizer = torch.optim.AdamW(parameters, fused=True)
    inputs = {name: torch.zeros(shape, dtype=torch.long) for name, shape in batch.items()}
    for each in parameters:
        each.grad = torch.zeros_like(each)
    optimizer.step()  # creates the moments, which every later step has
    optimizer.zero_grad()
    live.peak = 0
    for _ in range(min(args.accumulation, 2)):  # a third batch has the memory of the second
        live.phase = "forward"
        loss = LOSSES[args.mode](model, inputs, reference)
        live.phase = "backward"
        loss.backward()
        del loss
    live.phase = "optimiser"
    optimizer.step()


def _sft_loss(model: Any, inputs: dict[str, Any], _reference: Any) -> Any:
    from dimba.trainers.objectives.sft.causal_trainer import CausalTrainer

    accelerator = SimpleNamespace(num_processes=1)
    settings = SimpleNamespace(average_tokens_across_devices=True)
    trainer: Any = SimpleNamespace(
        model=model, aux_loss_enabled=False, accelerator=accelerator, args=settings, _tokens=torch.zeros(())
    )
    trainer.part_of = dict  # one GPU has complete rows
    tokens = torch.zeros((), dtype=torch.long)
    # accelerate wraps the model's own forward; computations on its outputs are outside of autocast.
    return CausalTrainer.compute_loss(trainer, Autocast(model), {**inputs, "tokens": tokens}, False, tokens)


def _grpo_loss(model: Any, inputs: dict[str, Any], _reference: Any) -> Any:
    from trl import GRPOTrainer

    accelerator = SimpleNamespace(autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    trainer: Any = SimpleNamespace(accelerator=accelerator)
    ids, completion = inputs["input_ids"], inputs["completion_ids"].shape[1]
    of_tokens = inspect.unwrap(GRPOTrainer._get_per_token_logps_and_entropies)
    logps, entropies, _ = of_tokens(
        trainer, Autocast(model), ids, inputs["attention_mask"], completion, compute_entropy=True
    )
    return _clipped(logps, inputs["completion_ids"]) / entropies.shape[0]


def _clipped(logps: Any, advantages: Any) -> Any:
    ratio = torch.exp(logps - logps.detach())
    return -(torch.min(ratio, ratio.clamp(0.8, 1.2)) * advantages).sum()


def _dpo_loss(model: Any, inputs: dict[str, Any], reference: Any) -> Any:
    """As DPOTrainer's: what it logs beside has sizes that fake tensors do not know."""
    from trl.models.utils import disable_gradient_checkpointing

    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
    outputs = Autocast(model)(**given, labels=labels, fused_lm_head=True)
    off = nullcontext() if reference is not None else model.disable_adapter()
    with torch.no_grad(), disable_gradient_checkpointing(model), off:
        base = Autocast(reference if reference is not None else model)(**given, labels=labels, fused_lm_head=True)
    chosen, rejected = (outputs.log_probs.sum(dim=1) - base.log_probs.sum(dim=1)).chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()


def _masked_loss(model: Any, inputs: dict[str, Any], _reference: Any) -> Any:
    """Of rows of which every token is masked, as the probe of the trainer has them."""
    from dimba.trainers.objectives.sft.masked_trainer import MaskedTrainer

    batch = _all_masked(inputs)
    with _Places(batch["ids"].numel()):
        return MaskedTrainer.compute_loss(_masked_trainer(model), Autocast(model), batch, False, len(batch["ids"]))


def _masked_pairs_loss(model: Any, inputs: dict[str, Any], reference: Any) -> Any:
    """Of the sides of pairs, each as often as there are draws, of which every token is masked."""
    from dimba.trainers.objectives.dpo.masked_trainer import MaskedPairTrainer

    batch, trainer = _all_masked(inputs), _masked_trainer(model)
    sides = len(batch["ids"]) // MASK_DRAWS
    trainer.args = SimpleNamespace(beta=0.1, loss_type=["sigmoid"])
    trainer.model, trainer._reference, trainer._draws = model, Autocast(reference) if reference else None, MASK_DRAWS
    trainer._referring = partial(MaskedPairTrainer._referring, trainer)
    trainer._measured, trainer._add = partial(MaskedPairTrainer._measured, trainer), lambda *_: None
    batch |= {"weight": torch.ones(len(batch["ids"])), "lengths": torch.ones(sides)}
    with _Places(batch["ids"].numel()):
        return MaskedPairTrainer.compute_loss(trainer, Autocast(model), batch, False, sides // 2)


def _masked_groups_loss(model: Any, inputs: dict[str, Any], _reference: Any) -> Any:
    """Of completions as long as they may be."""
    from dimba.trainers.objectives.grpo.masked_group_trainer import MaskedGroupTrainer

    trainer, completion = _masked_trainer(model), inputs["completion_ids"]
    trainer._base, trainer.temperature = trainer.base, 1.0
    trainer.accelerator.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    trainer._masked_prompts = lambda answers: torch.zeros_like(answers.trained)
    trainer._with_block = lambda answers: answers
    with _Places(completion.numel()):
        given = inputs["input_ids"], inputs["attention_mask"], completion.shape[1]
        logps, _ = MaskedGroupTrainer._estimate(trainer, Autocast(model), *given)
    return _clipped(logps, completion)


def _masked_trainer(model: Any) -> Any:
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    trainer: Any = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1), _tokens=torch.zeros(()), base=base)
    trainer.part_of_step = lambda total, examples: total / examples
    return trainer


def _all_masked(inputs: dict[str, Any]) -> dict[str, Any]:
    ids = inputs["input_ids"]
    every = torch.ones_like(ids, dtype=torch.bool)
    batch = {"ids": ids, "attended": inputs["attention_mask"], "trained": every, "masked": every}
    return batch | {"share": torch.ones(len(ids)), "tokens": torch.zeros((), dtype=torch.long)}


class _Places(TorchFunctionMode):  # type: ignore[misc]
    """Indexing by a mask takes so many places: a fake tensor does not know how many it marks."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__ and getattr(args[1], "dtype", None) == torch.bool:
            return args[0].flatten(0, 1)[torch.zeros(self.count, dtype=torch.long)]
        return func(*args, **(kwargs or {}))


class Autocast:
    """The model as accelerate wraps it, without its conversion of outputs."""

    def __init__(self, model: Any) -> None:
        self.model, self.training = model, model.training

    def __call__(self, **inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(**inputs)


LOSSES = {"sft": _sft_loss, "grpo": _grpo_loss, "dpo": _dpo_loss}
LOSSES |= {MASKED: _masked_loss, MASKED_PAIRS: _masked_pairs_loss, MASKED_GROUPS: _masked_groups_loss}

"""A saved model compared with the one in memory: by its logits, or by the values of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from dimba.trainers.models.precision import Precision
from dimba.trainers.models.sharding import full_weights, is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

LARGE = 1 << 30  # bytes from which a full model is not loaded a second time
_SAMPLE = 16  # tensors of a large model
_TOKENS = 64  # of each text
_EXACT, _ROUNDED = 1e-3, 0.1  # relative differences of the logits, in float32 and in reduced precision

Texts = Sequence[Sequence[int]]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Surrounds forward passes that must not change training: no gradients, no dropout, no random numbers used."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    devices = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def saved_problem(trainer: Trainer, folder: str, precision: Precision, texts: Texts) -> str:
    """How the model in `folder` differs from the trainer's; empty if it does not. All ranks must call it together."""
    if is_sharded():
        weights = full_weights(trainer.model)
        return _weights_problem(trainer, folder, weights) if is_main_process() else ""
    if not is_main_process():
        return ""
    if hasattr(trainer.model, "peft_config"):
        return _adapter_problem(trainer, folder, texts)
    if precision.bytes_of(trainer.model) > LARGE:
        return _weights_problem(trainer, folder, trainer.model.state_dict())
    return reloaded_problem(trainer.model, folder, texts, is_rounded=is_rounded(trainer, precision))


def is_rounded(trainer: Trainer, precision: Precision) -> bool:
    """Whether the model in memory computes in another precision than the saved one does on a CPU."""
    has_mixed = trainer.args.bf16 or trainer.args.fp16
    return precision != Precision() or has_mixed or trainer.args.device.type != "cpu"


def reloaded_problem(model: PreTrainedModel, folder: str, texts: Texts, *, is_rounded: bool) -> str:
    """How the model in `folder`, loaded on the CPU, differs from `model`: weights made up or left over, or logits."""
    other, info = type(model).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info.get(kind) or ())):
            return f"{kind.replace('_', ' ')}: {', '.join(names[:3])}"
    return _difference_problem(logits_of(model, texts), logits_of(other, texts), is_rounded=is_rounded)


def _difference_problem(ours: torch.Tensor, saved: torch.Tensor, *, is_rounded: bool) -> str:
    if ours.shape != saved.shape:
        return f"its logits have the shape {tuple(saved.shape)}, not {tuple(ours.shape)}"
    if not ours.isfinite().all():
        return ""  # the run reports these
    difference = float((ours - saved).norm() / ours.norm().clamp(min=1e-12))
    allowed = _ROUNDED if is_rounded else _EXACT
    return "" if difference <= allowed else f"its logits differ by {difference:.1%}"


def logits_of(model: PreTrainedModel, texts: Texts) -> torch.Tensor:
    """The logits of the texts' last tokens [tokens, vocabulary], in float32 on the CPU."""
    from dimba.trainers.models.families import half_of  # whose modules compare models by these functions

    device = next(model.parameters()).device
    found = []
    with evaluating(model):
        for text in texts:
            ids = torch.tensor([list(text)[-_TOKENS:]], device=device)
            found.append(half_of(model).logits(model, ids)[0].float().cpu())
    return torch.cat(found)


def _adapter_problem(trainer: Trainer, folder: str, texts: Texts) -> str:
    """As `saved_problem`, of an adapter: the saved one takes the place of the one in memory, which equals it."""
    from peft import load_peft_weights, set_peft_model_state_dict  # imported only where there is an adapter

    if problem := adapter_values_problem(trainer.model, folder):
        return problem
    before = logits_of(trainer.model, texts)
    result = set_peft_model_state_dict(trainer.model, load_peft_weights(folder, device="cpu"))
    if unexpected := sorted(set(result.unexpected_keys) - stored_names(trainer.model)):
        return f"unexpected keys: {', '.join(unexpected[:3])}"
    return _difference_problem(before, logits_of(trainer.model, texts), is_rounded=False)


def stored_names(model: Any) -> set[str]:
    """The names of a model's tensors in an adapter's files: where rows were added, peft writes a tied head's too."""
    return {name.replace(".default", "") for name in model.state_dict()}  # peft's name for one adapter of several


def adapter_values_problem(model: Any, folder: str, weights: Mapping[str, torch.Tensor] | None = None) -> str:
    """How the adapter in `folder` differs from the model's, tensor by tensor; `weights` as they are in the model."""
    from peft import PeftConfig, get_peft_model_state_dict  # as above

    PeftConfig.from_pretrained(folder)
    expected = get_peft_model_state_dict(model, state_dict=weights)
    return _values_problem(folder, expected, names=sorted(expected), are_all=True)


def _weights_problem(trainer: Trainer, folder: str, weights: Mapping[str, torch.Tensor]) -> str:
    if hasattr(trainer.model, "peft_config"):
        return adapter_values_problem(trainer.model, folder, weights)
    step = max(1, len(weights) // _SAMPLE)
    names = sorted(weights)[::step]
    return _values_problem(folder, weights, names=names)


def values_problem(folder: str, expected: Mapping[str, torch.Tensor]) -> str:
    """How tensors in the safetensors files of `folder` differ from those in memory of the same name."""
    return _values_problem(folder, expected, names=sorted(expected))


def _values_problem(
    folder: str, expected: Mapping[str, torch.Tensor], *, names: Sequence[str], are_all: bool = False
) -> str:
    found = dict(_stored(folder, set(names)))
    if are_all and (missing := [name for name in names if name not in found]):
        return f"missing keys: {', '.join(missing[:3])}"
    for name, saved in found.items():
        ours = expected[name].detach().cpu()
        if ours.shape != saved.shape or not torch.equal(ours.to(saved.dtype).nan_to_num(), saved.nan_to_num()):
            return f"`{name}` has other values"
    return ""


def _stored(folder: str, names: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in names.intersection(weights.keys()):
                yield name, weights.get_tensor(name)

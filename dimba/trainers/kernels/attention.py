"""The choice of an attention for packed rows on a GPU: the quickest on this card of those that are exact for the model.

An SDPA mask over all pairs of positions is the last resort. Times are measured once per card, shape and length of
documents; that the attention is right is proved at every start, on the model at hand and in its precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from math import log2
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dimba.trainers.data.gradient_probe import probe_attention
from dimba.trainers.data.packing import Batch, collate_packed
from dimba.trainers.data.packing_probe import in_mode, probe_packing
from dimba.trainers.kernels import documents, sequence, varlen
from dimba.trainers.kernels.attending import BY_BORDERS, FLAT, attending, attention_of
from dimba.trainers.kernels.timings import Timings, machine, quickest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INSTALLED = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_WORDS = {
    documents.NAME: "within documents",
    sequence.NAME: "within documents of divided rows",
    varlen.NAME: "varlen",
}
_MOST_TOKENS = 1 << 14  # of a measured pass: for the large models it takes a second
_SHAPE = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("sliding_window", "layer_types", "attention_dropout", "attn_logit_softcapping", "vocab_size"),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an attention has to do: the device, the mixed precision (no, bf16, fp16), and the rows of a batch.

    `length` is the usual number of tokens of a document, and `longest` the most of a packed row under a mask.
    """

    device: torch.device
    mixed: str
    rows: int
    length: int
    longest: int

    @property
    def on_cpu(self) -> bool:
        """Whether a mask over all documents costs more there than a call for each document."""
        return self.device.type == "cpu"

    def autocast(self) -> AbstractContextManager[object]:
        """Surrounds passes as mixed-precision training does."""
        if self.mixed == "no":
            return nullcontext()
        dtype = torch.float16 if self.mixed == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype)


@dataclass(frozen=True)
class Choice:
    """The name of the attention, None if none is exact; a line with times and what was refused; and the times."""

    name: str | None
    reason: str
    timings: Timings


def option_name(name: str) -> str:
    """The name of an attention as options write it."""
    return _WORDS.get(name, name)


def candidates(own: str, device: torch.device) -> tuple[str, ...]:
    """The attentions that may be exact for a model and that this machine has; the model's own last."""
    installed = [name for name, package in _INSTALLED.items() if find_spec(package)]
    compiled = [] if device.type == "cpu" else ["flex_attention"]  # on a CPU it has no gradients
    found = (*([varlen.NAME] if varlen.is_available() else []), *installed, *compiled)
    return (*(name for name in found if name != own), own)


def choose_attention(model: PreTrainedModel, work: Work) -> Choice:
    """The quickest exact attention for packed rows; leaves the model's own in place.

    All ranks must call this together: the first one's times decide, and each rank proves the attention for itself.
    """
    own = attention_of(model)
    # The eager attention of a model is in its module alone, and keeps all scores: it comes last, without a time.
    timed = [name for name in candidates(own, work.device) if name != "eager"]
    with _own_memory(work), work.autocast(), in_mode(model, training=True):
        timings = quickest(
            "attention", _key(model, work), {name: timed_pass(model, name, work) for name in timed}, work.device
        )
        return _first_exact(model, timings, own, work)


@contextmanager
def _own_memory(work: Work) -> Iterator[None]:
    """Keeps the trials' memory out of the peak that is reported of the job."""
    yield
    if work.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(work.device)


def _first_exact(model: PreTrainedModel, timings: Timings, own: str, work: Work) -> Choice:
    refused = dict(timings.problems)
    by_time = sorted(timings.seconds, key=lambda name: timings.seconds[name])
    for name in (*by_time, *([] if own in by_time else [own])):
        probe = probe_packing(model) if name == own else probe_attention(model, name)
        if probe.is_exact:
            return Choice(name, _reason(name, timings, refused, work), timings)
        refused[name] = probe.reason
    return Choice(None, refused[own], timings)


def _reason(chosen: str, timings: Timings, refused: dict[str, str], work: Work) -> str:
    where = machine(work.device).get("card", "this machine")
    times = [
        f"{option_name(name)} {seconds * 1e3:.3g} ms"
        for name, seconds in sorted(timings.seconds.items(), key=lambda each: each[1])
        if name not in refused
    ]
    source = "measured earlier" if timings.is_cached else "measured now"
    problems = [f"{option_name(name)} is out: {reason}" for name, reason in refused.items() if name != chosen]
    return "; ".join([f"{', '.join(times) or 'nothing was measured'} ({source} on {where})", *problems])


def _key(model: PreTrainedModel, work: Work) -> dict[str, object]:
    """What the times depend on beside the machine; lengths count by powers of two."""
    config = model.config.get_text_config()
    shape = {name: getattr(config, name, None) for name in _SHAPE}
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    batch = {"rows": work.rows, "length": usual_length(work), "longest": work.longest, "mixed": work.mixed}
    return {**shape, **batch, "dtypes": dtypes, "transformers": version("transformers")}


def usual_length(work: Work) -> int:
    """Tokens of a measured document: the power of two nearest to that of the usual one."""
    return int(min(work.longest, 1 << max(1, round(log2(max(work.length, 2))))))


def timed_pass(model: PreTrainedModel, name: str, work: Work) -> Callable[[], None]:
    """A forward pass over a usual batch in which the attention alone is followed by its backward pass.

    It so takes the memory of a forward pass without gradients, and the mask is made as in training.
    """
    batch = _usual_batch(name, work)

    def run() -> None:
        with attending(model, name), _with_backward(name), torch.no_grad():
            model.base_model(**batch, use_cache=False)

    return run


def _usual_batch(name: str, work: Work) -> Batch:
    length = usual_length(work)
    rows = max(1, min(work.rows, _MOST_TOKENS // length))
    feature = {"input_ids": [1] * length, "labels": [1] * length}
    limit = rows * length if name in FLAT else work.longest
    batch = collate_packed([feature] * rows, max_length=limit, pad_id=1, borders=name in BY_BORDERS)
    kept = {key: value for key, value in batch.items() if key not in ("labels", "tokens")}
    return {key: each.to(work.device) if isinstance(each, torch.Tensor) else each for key, each in kept.items()}


@contextmanager
def _with_backward(name: str) -> Iterator[None]:
    """Surrounds passes in which each call of this attention computes gradients to its states at once."""
    attend = AttentionInterface._global_mapping[name]

    def both(module: torch.nn.Module, query: Any, key: Any, value: Any, mask: Any, **given: Any) -> tuple[Any, None]:
        with torch.enable_grad():
            states = [each.detach().requires_grad_() for each in (query, key, value)]
            attended = attend(module, *states, mask, **given)[0]
            torch.autograd.grad(attended, states, torch.ones_like(attended))
        return attended.detach(), None

    ALL_ATTENTION_FUNCTIONS[name] = both
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]

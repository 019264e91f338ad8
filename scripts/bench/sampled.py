"""The traced peak of memory of sampling a step: reading all prompts, then the last token with a full cache.

Follows transformers' `generate` for GRPO: a trained base under one autocast for all tokens, a base under an adapter in
its own dtype. Not traced: `generate`'s own loop and the steps between, which take less, and all of
torch's `multinomial` but the numbers that it draws.
"""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache

from dimba.trainers.models.masked_diffusion.sampler import Unmasking, _Rows
from scripts.bench.tracing import Autocast, Live, adapted, as_on_cuda, fake


def traced_sampling(model: torch.nn.Module, args: Namespace, *, rows: int, prompt: int, length: int) -> Live:
    """Trace sampling from `rows` prompts of `prompt` tokens to texts of `length`, with weights and AdamW's moments."""
    with _loaded(model, args) as (trained, live):
        forward = trained.get_base_model() if trained is not model else _in_float32(Autocast(model))
        live.peak, live.phase = 0, "reading"
        cache = DynamicCache(config=model.config)
        with torch.autocast("cpu", torch.bfloat16, enabled=trained is model):
            _step(forward, cache, rows=rows, new=prompt, length=prompt)
            live.phase = "growing"
            _grow(cache, length - 1)
            live.phase = "last token"
            _step(forward, cache, rows=rows, new=1, length=length)
    return live


def traced_unmasking(model: torch.nn.Module, args: Namespace, *, rows: int, length: int, guidance: float) -> Live:
    """Trace what a step of masked diffusion's sampler reads, with weights and AdamW's moments.

    Not traced: the draws from the logits of a block, a row at a time.
    """
    with _loaded(model, args) as (trained, live):
        ids = torch.zeros(rows, length, dtype=torch.long)
        every = torch.ones_like(ids, dtype=torch.bool)
        how = Unmasking(new_tokens=length, guidance=guidance)
        step: Any = SimpleNamespace(_model=trained, _how=how, _mask=0, _ids=ids, _answer=every)
        live.peak, live.phase = 0, "unmasking"
        with torch.autocast("cpu", torch.bfloat16, enabled=trained is model):
            _Rows._logits(step, every, every, length)
    return live


@contextmanager
def _loaded(model: torch.nn.Module, args: Namespace) -> Iterator[tuple[Any, Live]]:
    """(the model as it is trained, beside AdamW's moments; the trace of what follows), with fake tensors."""
    trained = adapted(model, args)
    live = Live()
    with FakeTensorMode(allow_non_fake_inputs=True), live, as_on_cuda(), torch.no_grad():
        live.phase = "load"
        fake(trained)
        moments = _moments(trained)
        yield trained, live
        del moments


def _moments(model: Any) -> list[torch.Tensor]:
    parameters = [each for each in model.parameters() if each.requires_grad]
    for each in parameters:
        each.data = each.data.float()
    return [torch.zeros_like(each) for each in parameters for _ in range(2)]


def _in_float32(model: Any) -> Any:
    def forward(**inputs: Any) -> Any:
        outputs = model(**inputs)
        outputs.logits = outputs.logits.float()
        return outputs

    return forward


def _step(forward: Any, cache: Any, *, rows: int, new: int, length: int) -> None:
    """One forward pass over `new` tokens per row, and a draw from the logits of the last one."""
    inputs = {"input_ids": torch.zeros(rows, new, dtype=torch.long), "attention_mask": torch.ones(rows, length).long()}
    inputs["position_ids"] = torch.zeros(rows, new, dtype=torch.long)
    outputs = forward(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    scores = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
    probabilities = torch.softmax(scores, dim=-1)
    drawn = torch.empty_like(probabilities)
    assert drawn.shape == scores.shape


def _grow(cache: Any, length: int) -> None:
    """Set the cache to its size before the last token; its content does not matter."""
    for layer in cache.layers:
        layer.cumulative_length = length  # layers with a window use it; the window is not reached here
        for name in ("keys", "values"):
            old = getattr(layer, name)
            grown = (*old.shape[:2], length, old.shape[3])
            setattr(layer, name, None)
            setattr(layer, name, torch.empty(grown, dtype=old.dtype))

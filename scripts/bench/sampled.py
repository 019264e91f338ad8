"""What sampling a step's completions takes, traced: all prompts read at once, then the last token, its cache full.

As transformers' `generate` does it for GRPO. accelerate wraps the outermost model's forward: the base under an adapter
is called past that, and computes in its own type. What is not traced: `generate`'s own loop and the steps between,
which take less, and of torch's `multinomial` all but the numbers that it draws.
"""

from argparse import Namespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DynamicCache

from scripts.bench.tracing import Autocast, Live, adapted, as_on_cuda, fake


def traced_sampling(model: torch.nn.Module, args: Namespace, *, rows: int, prompt: int, length: int) -> Live:
    """`rows` prompts of so many tokens, padded, become texts of `length`; weights and AdamW's moments are there."""
    trained = adapted(model, args)
    live = Live()
    with FakeTensorMode(allow_non_fake_inputs=True), live, as_on_cuda(), torch.no_grad():
        live.phase = "load"
        fake(trained)
        moments = _moments(trained)
        forward = trained.get_base_model() if trained is not model else _in_float32(Autocast(model))
        live.peak, live.phase = 0, "reading"
        cache = DynamicCache(config=model.config)
        _step(forward, cache, rows=rows, new=prompt, length=prompt)
        live.phase = "growing"
        _grow(cache, length - 1)
        live.phase = "last token"
        _step(forward, cache, rows=rows, new=1, length=length)
        del moments
    return live


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
    """A forward pass over new tokens, and a draw from what comes of the last of them."""
    inputs = {"input_ids": torch.zeros(rows, new, dtype=torch.long), "attention_mask": torch.ones(rows, length).long()}
    inputs["position_ids"] = torch.zeros(rows, new, dtype=torch.long)
    outputs = forward(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    scores = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
    probabilities = torch.softmax(scores, dim=-1)
    drawn = torch.empty_like(probabilities)
    assert drawn.shape == scores.shape


def _grow(cache: Any, length: int) -> None:
    """The cache as it is before the last token: what is in it is not looked at."""
    for layer in cache.layers:
        layer.cumulative_length = length  # what layers with a window go by, which is not reached here
        for name in ("keys", "values"):
            old = getattr(layer, name)
            grown = (*old.shape[:2], length, old.shape[3])
            setattr(layer, name, None)
            setattr(layer, name, torch.empty(grown, dtype=old.dtype))

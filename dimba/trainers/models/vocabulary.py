"""Token ids against the rows of the embedding: rows are added for tokens that lack one, and untrained ones reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dimba.common.units import quantity
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SMALL = 0.1  # of the median norm of a row


def token_count(tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokenizer's highest id and one: ids may have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def add_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Adds rows for the tokens that lack one, near the mean of the others, and returns their ids.

    Every process, and a reference beside the model, draws the same values.
    """
    rows, tokens = model.get_input_embeddings().weight.shape[0], token_count(tokenizer)
    if tokens <= rows:
        return []
    has_weights = is_main_process() or not is_sharded()  # else the first process sends them
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(tokens, mean_resizing=has_weights)
    return list(range(rows, tokens))


def added_rows_note(new: Sequence[int], *, adapter: bool) -> str:
    """One line on the rows that `add_rows` added; empty if there are none."""
    if not new:
        return ""
    trained = "the adapter trains and saves them" if adapter else "they are trained and saved"
    return (
        f"tokenizer: {new[-1] + 1:,} tokens, the base has {new[0]:,} rows for them: "
        f"{quantity(len(new), 'row')} added, near the mean of the others; {trained}"
    )


def untie(model: PreTrainedModel) -> str:
    """Declares a head apart that the files have apart from the embedding, as the library then loads it; returns a line.

    Other libraries believe `tie_word_embeddings` of the saved config.json, and would ignore the head.
    """
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    configs = [each for each in (model.config, model.config.get_text_config()) if _ties(each)]
    if not configs or not type(model)._tied_weights_keys or head is None or head.weight is inputs.weight:
        return ""
    for config in configs:
        config.tie_word_embeddings = False
    return "the base ties its head to the embedding, but has other values for it: `tie_word_embeddings: false` is saved"


def _ties(config: object) -> bool:
    return getattr(config, "tie_word_embeddings", False) is True


def trained_rows(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]]:
    """peft's `trainable_token_indices`: the rows of these tokens in the embedding, and in a head of its own."""
    if not tokens:
        return {}
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [inputs] if outputs is None or outputs.weight is inputs.weight else [inputs, outputs]
    names = [name for name, module in model.named_modules() if any(module is layer for layer in layers)]
    return {name: list(tokens) for name in names}


def complete_head(model: PreTrainedModel) -> None:
    """Gives a head of which peft trains some rows the bias of the head itself, or None: TRL reads it for its losses."""
    head = model.get_output_embeddings()
    if head is not None and not hasattr(head, "bias"):
        head.__dict__["bias"] = getattr(head.original_module, "bias", None)  # as an attribute, not one more parameter


def untrained_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: Sequence[str]) -> str:
    """One line on tokens that end a turn and whose rows the base never trained; empty if there are none."""
    ids = {end: tokenizer.convert_tokens_to_ids(end) for end in ends}
    found = {end: why for end, number in ids.items() if number is not None and (why := _untrained(model, number))}
    if not found:
        return ""
    named = "; ".join(f"`{end}` ({why})" for end, why in found.items())
    listed = ", ".join(json.dumps(end, ensure_ascii=False) for end in found)
    way = f"`lora: {{trainable_tokens: [{listed}]}}` trains it, or `method: full`"
    return f"the base never trained the token that ends a turn, and an adapter does not change it: {named}; {way}"


def _untrained(model: PreTrainedModel, number: int) -> str:
    for layer in (model.get_output_embeddings(), model.get_input_embeddings()):
        weight = getattr(layer, "weight", None)
        if weight is None or not weight.is_floating_point() or weight.is_meta or number >= len(weight):
            continue
        if why := _unlike_trained(weight.detach(), number):
            return why
    return ""


def _unlike_trained(rows: torch.Tensor, number: int) -> str:
    """The sign that a row was never trained: zero, equal to others, or far smaller than they are."""
    norms = rows.norm(dim=1, dtype=torch.float32)
    if norms[number] == 0:
        return "its row is zero"
    alike = (norms - norms[number]).abs() <= 1e-6 * norms[number]
    equal = int((rows[alike] == rows[number]).all(dim=1).sum()) - 1
    if equal:
        return f"its row equals {quantity(equal, 'other')}"
    share = float(norms[number] / norms.median())
    return f"its row has {share:.1%} of the usual norm" if share < _SMALL else ""

"""The choice of a collator: rows packed end to end where that is exact for the model at hand, else padded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dimba.common.errors import BadInput
from dimba.options.examples import ExampleOptions
from dimba.trainers.data.packing import Collator, collate_packed, collate_padded
from dimba.trainers.data.packing_probe import probe_packing
from dimba.trainers.kernels.documents import NAME, use_document_attention
from dimba.trainers.models.sharding import from_first_rank
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def choose_collator(options: ExampleOptions, model: PreTrainedModel, pad_id: int, *, on_cpu: bool) -> Collator:
    """The collator that --packing and --attention ask for, or the fastest exact one; may set the model's attention.

    Raises:
        BadInput: `--attention documents` is not exact for this model.
    """
    padded = partial(collate_padded, pad_id=pad_id)
    if options.attention == "documents":
        return _document_collator(options, model, pad_id)
    if options.packing == "off" or options.batch_size == 1:
        return padded
    # On a GPU, one kernel over the mask takes no longer than a kernel for each document.
    if options.attention == "auto" and on_cpu and use_document_attention(model).is_exact:
        return partial(collate_packed, max_length=options.batch_size * options.max_length, pad_id=pad_id)
    probe = from_first_rank(probe_packing(model))
    if probe.is_exact:
        return partial(collate_packed, max_length=options.max_length, pad_id=pad_id)
    if is_main_process():
        print(f"packing is off, rows are padded: {probe.reason}", flush=True)
    return padded


def _document_collator(options: ExampleOptions, model: PreTrainedModel, pad_id: int) -> Collator:
    hint = "leave out --attention: the default is the fastest exact attention"
    if options.packing == "off":
        raise BadInput("--attention documents needs packed rows, but --packing is off", hint)
    probe = use_document_attention(model)
    if not probe.is_exact:
        raise BadInput(probe.reason, hint, key="--attention documents")
    return partial(collate_packed, max_length=options.batch_size * options.max_length, pad_id=pad_id)


def speed_summary(model: PreTrainedModel, collate: Collator, *, mixed: str, activations: str) -> str:
    """One line with the precision, the layout of rows, the attention and the use of activation checkpointing."""
    packed = getattr(collate, "func", None) is collate_packed
    attention = "within documents" if model.config._attn_implementation == NAME else model.config._attn_implementation
    parts = ["float32" if mixed == "no" else f"mixed {mixed}", "rows packed" if packed else "rows padded"]
    parts += [f"attention {attention}", f"activation checkpointing {activations}"]
    return ", ".join(parts)

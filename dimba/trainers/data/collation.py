"""The layout of batches: rows packed end to end where that is exact for the model at hand, else padded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dimba.common.errors import BadInput
from dimba.common.units import precision_words
from dimba.options.examples import ExampleOptions
from dimba.trainers.data.gradient_probe import probe_attention
from dimba.trainers.data.packing import Collator, collate_packed, collate_padded
from dimba.trainers.data.packing_probe import ProbeResult, probe_packing
from dimba.trainers.kernels import documents, varlen
from dimba.trainers.kernels.attending import BY_BORDERS, FLAT, attention_of, switch_attention
from dimba.trainers.kernels.attention import Work, choose_attention, option_name
from dimba.trainers.kernels.documents import use_document_attention
from dimba.trainers.kernels.placement import on_device
from dimba.trainers.models.dividing import use_divided_attention
from dimba.trainers.models.sharding import from_first_rank

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BY_DOCUMENTS = {"documents": documents.NAME, "varlen": varlen.NAME}
_HINT = "leave out --attention: the default is the fastest exact attention"


@dataclass(frozen=True)
class Layout:
    """The collator, whether it packs rows, the attention, and what was measured or refused (empty on a CPU)."""

    collate: Collator
    is_packed: bool
    attention: str
    note: str = ""

    def summary(self, *, mixed: str, activations: str) -> str:
        """The precision, the layout of rows, the attention and the use of activation checkpointing, then the note."""
        parts = [precision_words(mixed), f"rows {'packed' if self.is_packed else 'padded'}"]
        recomputed = activations if activations in ("on", "off") else f"of {activations}"
        parts += [f"attention {self._attention()}", f"activation checkpointing {recomputed}"]
        return "\n".join([", ".join(parts), *([self.note] if self.note else [])])

    def _attention(self) -> str:
        has_mask = self.is_packed and self.note and self.attention in ("sdpa", "eager")
        return option_name(self.attention) + (" under a mask" if has_mask else "")


def choose_layout(options: ExampleOptions, model: PreTrainedModel, pad_id: int, work: Work) -> Layout:
    """What --packing and --attention ask for, or the fastest exact one; may set the model's attention.

    On a GPU the model is moved there, because the kernels are tried on it.

    Raises:
        BadInput: `--attention documents` or `varlen` is not exact for this model, or its rows cannot be divided.
    """
    if options.ranks_per_row > 1:  # proved before the first step, when the ranks are connected
        use_divided_attention(model, options)
        return _padded(model, pad_id) if options.packing == "off" else _packed(options, model, pad_id)
    if options.attention in _BY_DOCUMENTS:
        return _requested(options, model, pad_id, work)
    if options.packing == "off" or options.batch_size == 1:
        return _padded(model, pad_id)
    if work.on_cpu:
        return _on_cpu(options, model, pad_id)
    tried = on_device(model, work.device)
    if options.attention == "auto":
        choice = choose_attention(tried, work)
        if choice.name is None:
            return _padded(model, pad_id, choice.reason)
        switch_attention(model, choice.name)
        return _packed(options, model, pad_id, f"attention of packed rows: {choice.reason}")
    with work.autocast():
        return _packed_if_exact(options, model, pad_id, probe_packing(tried))


def _on_cpu(options: ExampleOptions, model: PreTrainedModel, pad_id: int) -> Layout:
    if options.attention == "auto" and use_document_attention(model).is_exact:
        return _packed(options, model, pad_id)
    return _packed_if_exact(options, model, pad_id, from_first_rank(probe_packing(model)))


def _packed_if_exact(options: ExampleOptions, model: PreTrainedModel, pad_id: int, probe: ProbeResult) -> Layout:
    return _packed(options, model, pad_id) if probe.is_exact else _padded(model, pad_id, probe.reason)


def _requested(options: ExampleOptions, model: PreTrainedModel, pad_id: int, work: Work) -> Layout:
    """The layout for an attention by documents that was asked for."""
    asked, name = f"--attention {options.attention}", _BY_DOCUMENTS[options.attention]
    if options.packing == "off":
        raise BadInput(f"{asked} needs packed rows, but --packing is off", _HINT)
    if name == documents.NAME:
        probe = use_document_attention(model)
    else:
        with work.autocast():
            probe = probe_attention(on_device(model, work.device), name)
    if not probe.is_exact:
        raise BadInput(probe.reason, _HINT, key=asked)
    switch_attention(model, name)
    return _packed(options, model, pad_id)


def _packed(options: ExampleOptions, model: PreTrainedModel, pad_id: int, note: str = "") -> Layout:
    name = attention_of(model)
    limit = options.max_length * (options.batch_size if name in FLAT else 1)
    collate = partial(collate_packed, max_length=limit, pad_id=pad_id, borders=name in BY_BORDERS)
    return Layout(collate, is_packed=True, attention=name, note=note)


def _padded(model: PreTrainedModel, pad_id: int, reason: str = "") -> Layout:
    note = f"packing is off, rows are padded: {reason}" if reason else ""
    return Layout(partial(collate_padded, pad_id=pad_id), is_packed=False, attention=attention_of(model), note=note)

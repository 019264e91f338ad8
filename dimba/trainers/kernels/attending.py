"""The attention of a model, switched for good or for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Attention that takes the borders of documents in place of a mask, as transformers' FlashAttention keywords.
BY_BORDERS = ("dimba_varlen", "flash_attention_2", "flash_attention_3")
# Attention whose cost is by document: one row of all documents costs no more than several. The block mask of
# flex_attention is computed from all pairs of positions.
FLAT = ("dimba_documents", "dimba_sequence", *BY_BORDERS)
WITHOUT_CACHE = (*FLAT, "flex_attention")  # for training: completions are sampled with the model's default
_NARROW = 4  # tokens; smaller than the documents of the packing probe
_WINDOWS = ("sliding_window", "attention_chunk_size")


def attention_of(model: PreTrainedModel) -> str:
    """The name of the model's attention, of an adapter's base too."""
    return str(_base(model).config._attn_implementation)


def switch_attention(model: PreTrainedModel, name: str) -> None:
    """Gives the model another attention.

    Raises:
        ValueError, ImportError: the model or the machine does not have it.
    """
    base = _base(model)
    if name == attention_of(model):
        return
    base.set_attn_implementation(name)
    if attention_of(model) != name:  # transformers warns, or takes the nearest one that the model supports
        raise ValueError(f"{type(base).__name__} has an attention of its own")


@contextmanager
def attending(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Surrounds forward passes with another attention; None leaves the model's own. Raises as `switch_attention`."""
    before = attention_of(model)
    try:
        if name is not None:
            switch_attention(model, name)
        yield
    finally:
        if attention_of(model) != before:
            _base(model).set_attn_implementation(before)


@contextmanager
def narrowed_windows(model: PreTrainedModel) -> Iterator[None]:
    """Surrounds forward passes with windows of few tokens, so that short documents show whether they are kept."""
    owners = [*model.modules(), *_configurations(_base(model).config)]
    before = [(each, name, vars(each)[name]) for each in owners for name in _WINDOWS if _is_window(each, name)]
    try:
        for each, name, size in before:
            setattr(each, name, min(size, _NARROW))
        yield
    finally:
        for each, name, size in before:
            setattr(each, name, size)


def _is_window(owner: Any, name: str) -> bool:
    size = vars(owner).get(name)
    return isinstance(size, int) and size > 0


def _configurations(config: Any) -> list[Any]:
    """A configuration and its parts, each once."""
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    found = {id(each): each for each in [config, config.get_text_config(), *parts] if each is not None}
    return list(found.values())


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model

"""The complete model around a language model that was loaded, and trained, without its other senses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from dimba.common.errors import RunFailed
from dimba.trainers.models.precision import Precision
from dimba.trainers.models.pretrained import load

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dimba.trainers.export.merge import State


def complete_model(model: PreTrainedModel, base: str, *, code: bool) -> PreTrainedModel | None:
    """The base with all its senses, if `model` is the language model of it alone; None if it is all of the base."""
    config = load(AutoConfig, base, trust_remote_code=code)
    if type(config) is type(model.config) or type(config) not in AutoModelForImageTextToText._model_mapping:
        return None
    found: PreTrainedModel = load(
        AutoModelForImageTextToText, base, dtype=model.dtype, use_safetensors=True, trust_remote_code=code
    )
    return found


def completed(whole: PreTrainedModel, text: PreTrainedModel, state: State, precision: Precision) -> State:
    """The weights of `whole`, with those of its language model replaced by `state`; its configuration follows."""
    own = whole.state_dict()
    prefixes = dict(_prefixes(text, whole))
    parts = {name: value.to(precision.of(name, value)) for name, value in own.items()}
    for target in dict(getattr(whole, "all_tied_weights_keys", None) or {}):
        parts.pop(target, None)
    for name, value in state.items():
        place = _place(name, prefixes)
        if place not in own:
            hint = "export a LoRA file instead, or the base with another tool"
            raise RunFailed(f"`{name}` has no place in {type(whole).__name__}", hint)
        parts[place] = value
    _follow(whole.config, text.config)
    return parts


def _prefixes(text: Any, whole: Any) -> Iterator[tuple[str, str]]:
    """The names of decoder and head in the language model, each with its name in the complete model."""
    decoder = text.get_decoder()
    same = next((each for each in whole.modules() if type(each) is type(decoder)), whole.get_decoder())
    for one, two in ((decoder, same), (text.get_output_embeddings(), whole.get_output_embeddings())):
        yield _name_of(text, one), _name_of(whole, two)


def _name_of(model: nn.Module, wanted: Any) -> str:
    names = (_plain(name) for name, module in model.named_modules() if module is wanted)
    return next(names, "")


def _plain(name: str) -> str:
    """A module's name without peft's wrappers."""
    return name.replace(".base_layer", "").replace(".original_module", "").replace(".token_adapter", "")


def _place(name: str, prefixes: dict[str, str]) -> str:
    """The name in the complete model of a weight of its language model."""
    found = next((each for each in prefixes if name.startswith(f"{each}.")), "")
    return f"{prefixes[found]}{name.removeprefix(found)}" if found else name


def _follow(whole: Any, text: Any) -> None:
    for config in (whole, whole.get_text_config()):
        for name in ("vocab_size", "tie_word_embeddings"):
            if hasattr(config, name) and hasattr(text, name):
                setattr(config, name, getattr(text, name))
